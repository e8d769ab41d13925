"""A real OpenStack control plane on loopback, from packages, for tests.

`parts` says what it consists of; `layout` where it lies; `software` installs it; `processes` runs it; `bringing_up` puts these in
order. Nothing here needs more than Python's standard library: it runs before anything is installed. What runs inside
OpenStack's own virtual environment is in `../inside`, its configuration in `../etc`.
"""
