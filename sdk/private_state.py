"""An orchestrator's persistent state: every report contains it as `private`, and activation returns it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from archelon_api import service_manager as wire

from .errors import Failure

#: Number of events whose ids are remembered, so that each is processed once.
EVENTS: Final = 256


class Private:
    """The author's state, and the SDK's own.

    Attributes:
        state: the author's.
        outputs: what the author publishes beside the stacks' outputs.
        phase: the last phase that was completed; empty before the first.
        suppliers: URLs of the ordered instances of other services, by type.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.phase = ""
        self.suppliers: dict[str, str] = {}
        self._events: dict[str, None] = {}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Load an earlier report's state."""
        self.state = dict(document.get("state") or {})
        self.outputs = dict(document.get("outputs") or {})
        self.phase = str(document.get("phase") or "")
        self.suppliers.clear()
        self.suppliers.update(document.get("suppliers") or {})
        self._events = dict.fromkeys(str(each) for each in document.get("events") or ())

    def knows(self, event: str) -> bool:
        """Whether an event has been processed."""
        return event in self._events

    def record(self, event: str) -> bool:
        """Record an event as processed; return False if it was recorded before."""
        if event in self._events:
            return False
        self._events[event] = None
        while len(self._events) > EVENTS:
            del self._events[next(iter(self._events))]
        return True

    def document(self) -> dict[str, Any]:
        """Return a copy as JSON values, for a report.

        Raises:
            Failure: the author's state is not JSON, or too large.
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
            raise Failure(f"self.state and self.outputs must be JSON: text, numbers, lists, maps ({error})") from None
        if len(text.encode()) > wire.PRIVATE_LIMIT:
            raise Failure(f"self.state and self.outputs are larger than {wire.PRIVATE_LIMIT} bytes; keep less")
        copied: dict[str, Any] = json.loads(text)
        return copied


def events_in(document: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of the processed events in a reported state."""
    return frozenset(document.get("events") or ())
