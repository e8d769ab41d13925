"""The kinds, attribute names and constants of the requests between Archelon's services.

Each module of this package is one party's vocabulary. A service registers the kinds with its backends, clients and tests use the
names, and `docs/wire.md` is generated from them. A module is imported by whoever names it (`from archelon_api import deploy`).
"""

from .names import ATTRIBUTE_PREFIX, SCHEME_PREFIX

__all__ = [
    "ATTRIBUTE_PREFIX",
    "SCHEME_PREFIX",
    "deploy",
    "design",
    "disposal",
    "orchestrator",
    "provision",
    "runtime",
    "service_manager",
    "tokens",
]
