"""What exists in the stand-in, and the one lock under which all of it changes.

The parts that know one another through it: `deploy` makes containers, a container has an `orchestrator`, that one makes stacks,
`disposal` takes all of them down. One lock is enough: nothing that holds it waits, for the network or for a fault, and
two locks would be taken in two orders, by requests and by timers.
"""

from __future__ import annotations

import dataclasses
import threading
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import occi.exceptions

from archelon_api.names import GENERATION, INSTANCE
from archelon_core.auth import Identity

from .faults import Fault, Faults
from .journal import Journal
from .outward import Calls
from .settings import Settings
from .timers import Timers

if TYPE_CHECKING:
    from .containers import Container
    from .orchestrator import OrchestratorApplication
    from .shelf import Shelf


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a backend may want to know of the request beside its entity.

    Attributes:
        faults: those that struck the request and are not about HTTP.
        request_id: the caller's `X-Request-Id`, or nothing.
        subject_token: whether `X-Subject-Token` came with it.
    """

    faults: tuple[Fault, ...] = ()
    request_id: str = ""
    subject_token: bool = False

    def fault(self, *kinds: str) -> Fault | None:
        """The first fault of one of the kinds."""
        return next((each for each in self.faults if each.kind in kinds), None)


class World:
    """See the module.

    Attributes:
        settings: as they are now; a test may change them.
        base_url: where the stand-in answers.
        containers: by instance.
        disposed: instances that were disposed of; they never come back.
        heard: by instance, the counter in the private state that the service manager last took.
        shelves: the entities of each module, by its name.
        orchestrators: what serves the requests to all of them.
    """

    orchestrators: OrchestratorApplication

    def __init__(self, settings: Settings, base_url: str) -> None:
        self.settings = settings
        self.base_url = base_url
        self.lock = threading.RLock()
        self.journal = Journal()
        self.faults = Faults()
        self.timers = Timers(self.slip)
        self.calls = Calls(self.timers, self.slip)
        self.containers: dict[str, Container] = {}
        self.disposed: set[str] = set()
        self.heard: dict[str, int] = {}
        self.shelves: dict[str, Shelf] = {}

    def slip(self, error: Exception) -> None:
        """A fault of the stand-in's own: in the books, so that the test that met it fails."""
        self.journal.violation("the stand-in itself failed: " + "".join(traceback.format_exception(error)))


def refuse(status: int, text: str) -> occi.exceptions.HTTPError:
    """The exception by which a pyssf backend refuses."""
    return occi.exceptions.HTTPError(status, text)


def asked(extras: Any) -> tuple[Identity, Ask]:
    """Who asks, and what else the request said."""
    return extras["identity"], extras["ask"]


def check_generation(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse an order that is older than the stored one with 409."""
    before, now = old.get(GENERATION, 0), new.get(GENERATION, 0)
    if now < before:
        raise refuse(409, f"generation {now} is older than the stored one, {before}")


def check_stays(old: dict[str, Any], new: dict[str, Any], names: Sequence[str]) -> None:
    """Refuse a change of what stays with 409."""
    for name in (INSTANCE, *names):
        if old.get(name) != new.get(name):
            raise refuse(409, f"{name} is {old.get(name)!r} and stays so; {new.get(name)!r} was sent")
