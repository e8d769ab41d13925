"""What an orchestrator remembers beyond its process: it travels as `private` with every report, and comes back at activation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from archelon_api import service_manager as wire

from .errors import Failure

#: Events whose ids are remembered, so that each is taken once.
EVENTS: Final = 256


class Private:
    """The author's state, and what the SDK keeps beside it.

    Attributes:
        state: the author's.
        outputs: what the author publishes beside the stacks' outputs.
        phase: the last phase that was done; empty before the first.
        suppliers: URLs of the instances of other services that were ordered, by type.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.phase = ""
        self.suppliers: dict[str, str] = {}
        self._events: dict[str, None] = {}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take what was reported before."""
        self.state = dict(document.get("state") or {})
        self.outputs = dict(document.get("outputs") or {})
        self.phase = str(document.get("phase") or "")
        self.suppliers.clear()
        self.suppliers.update(document.get("suppliers") or {})
        self._events = dict.fromkeys(str(each) for each in document.get("events") or ())

    def knows(self, event: str) -> bool:
        """Whether an event has been worked off."""
        return event in self._events

    def take(self, event: str) -> bool:
        """Remember that an event has been worked off. False where it is known."""
        if event in self._events:
            return False
        self._events[event] = None
        while len(self._events) > EVENTS:
            del self._events[next(iter(self._events))]
        return True

    def document(self) -> dict[str, Any]:
        """As it is reported: JSON, copied.

        Raises:
            Failure: what the author keeps is no JSON, or too large.
        """
        document = {
            "state": self.state,
            "outputs": self.outputs,
            "phase": self.phase,
            "suppliers": self.suppliers,
            "events": list(self._events),
        }
        try:
            text = json.dumps(document, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise Failure(
                f"self.state and self.outputs hold what JSON can: text, numbers, lists, maps ({error})"
            ) from None
        if len(text.encode()) > wire.PRIVATE_LIMIT:
            raise Failure(f"self.state and self.outputs are larger than {wire.PRIVATE_LIMIT} bytes; keep less")
        copied: dict[str, Any] = json.loads(text)
        return copied


def events_in(document: Mapping[str, Any]) -> frozenset[str]:
    """The ids of events that a document says have been worked off."""
    return frozenset(document.get("events") or ())
