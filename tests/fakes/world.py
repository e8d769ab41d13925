"""What exists in the stand-in, and the one lock under which all of it changes.

The parts that know one another through it: `deploy` makes containers, a container has an `orchestrator`, that one makes stacks,
`disposal` takes all of them down. One lock is enough: nothing that holds it waits, for the network or for a fault, and
two locks would be taken in two orders, by requests and by timers.
"""

from __future__ import annotations

import dataclasses
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import occi.exceptions

from archelon_api.names import GENERATION, INSTANCE
from occi_service import client

from .faults import Fault, Faults
from .journal import Journal
from .settings import Settings

if TYPE_CHECKING:
    from .containers import Container
    from .shelf import Shelf

__all__ = ["Ask", "World", "check_generation", "check_stays", "refuse"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a backend may want to know of the request beside its entity.

    Attributes:
        faults: those that struck the request and are not about HTTP.
        subject_token: whether `X-Subject-Token` came with it.
    """

    faults: tuple[Fault, ...] = ()
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
        clients: those of orchestrators, by the beginning of the URL.
        ask: the request that is served now.
    """

    def __init__(self, settings: Settings, base_url: str) -> None:
        self.settings = settings
        self.base_url = base_url
        self.lock = threading.RLock()
        self.journal = Journal()
        self.faults = Faults()
        self.clients: dict[str, client.Client] = {}
        self.ask = Ask()
        self.containers: dict[str, Container] = {}
        self.disposed: set[str] = set()
        self.heard: dict[str, int] = {}
        self.shelves: dict[str, Shelf] = {}

    def after(self, seconds: float, call: Callable[[], None]) -> threading.Timer:
        """Call in so many seconds, unless it is cancelled."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
        return timer

    def slip(self, error: BaseException) -> None:
        """A fault of the stand-in's own: in the books, so that the test that met it fails."""
        self.journal.violation("the stand-in itself failed: " + "".join(traceback.format_exception(error)))


def refuse(status: int, text: str) -> occi.exceptions.HTTPError:
    """The exception by which a pyssf backend refuses."""
    return occi.exceptions.HTTPError(status, text)


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
