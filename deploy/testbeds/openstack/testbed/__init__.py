"""A real OpenStack control plane on loopback, from packages, for tests.

`parts` defines the services, `layout` the directories; `software` installs, `processes` runs, and `bed` combines them. It
needs only the standard library, because it runs before anything is installed. Scripts for OpenStack's virtual environment are in
`../inside`, configuration files in `../etc`.
"""
