"""The base of every Archelon service, without OCCI.

Modules here: settings, database, logs, encryption, health, metrics and backoff. Packages: `auth` verifies callers and applies the
policy, `queue` runs leased work, `http` serves WSGI applications and fetches URLs, `templates` renders untrusted templates.
"""
