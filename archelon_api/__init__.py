"""The kinds, attribute names and constants that Archelon's services say to one another; nothing else.

Each module of this package is one party's vocabulary. A service registers the kinds with its backends, a client reads
the names, tests make fakes of them, and `docs/wire.md` is written from them: nobody spells a name a second time.
"""

from . import deploy, design, disposal, orchestrator, provision, runtime, service_manager, tokens
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
