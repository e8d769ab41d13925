"""What every service of Archelon stands on, and that knows no OCCI.

Settings, database, logs, encryption, health, metrics and delays between attempts are modules here; `auth` verifies callers and
holds the policy, `queue` runs leased work, `http` serves WSGI applications and fetches, `templates` renders text that a stranger
wrote.
"""
