"""Faults on request: the requests that they affect, how often, and their effect.

A fault is matched on the request line, before the body is read. HTTP faults (`status`, `drop_before`, `drop_after`, `delay`,
`delay_after`) are applied around the request; the others are passed to the code that handles it.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final, Literal, get_args

Kind = Literal[
    "status",
    "drop_before",
    "drop_after",
    "delay",
    "delay_after",
    "hang",
    "fail",
    "refuse",
    "crash",
    "never_start",
    "error",
]
#: On an orchestrator's phase, however it is ordered.
PHASE_KINDS: Final = ("hang", "fail", "refuse", "crash")
MODULES: Final = ("design", "deploy", "disposal", "orchestrator")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        kind: `status` responds with `status` without an effect; `drop_before` closes the connection before the effect,
            `drop_after` after it; `delay` and `delay_after` wait before and after it. On an orchestrator's phase: `hang` never
            reports, `fail` reports `failed` with `message`, `refuse` that no retry cures it either, `crash` ends the process
            after the phase has begun. On a PUT of an
            application: `never_start`, `error` with `message`. On a PUT of a disposal: `hang`, `fail` with `message`.
        module: `design`, `deploy`, `disposal` or `orchestrator`; None for any.
        method: of HTTP; None for any.
        path: regular expression, searched in the path below the module's mount point (`/application/<id>`); for an
            orchestrator in `/<instance>/orchestrator/default`.
        action: the term in `?action=`; None for any or none.
        count: number of requests to affect; None for all.
        status: of the response, with `retry_after` in seconds.
        seconds: of a delay; for `crash`, until the restart.
        message: the reason.
    """

    kind: Kind
    module: str | None = None
    method: str | None = None
    path: str = ""
    action: str | None = None
    count: int | None = 1
    status: int = 503
    retry_after: int | None = None
    seconds: float | None = None
    message: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self.kind!r} is no kind of fault; expected one of {', '.join(get_args(Kind))}")
        if self.module is not None and self.module not in MODULES:
            raise ValueError(f"{self.module!r} is no module; expected one of {', '.join(MODULES)}")
        if self.kind in ("delay", "delay_after") and self.seconds is None:
            raise ValueError(f"a fault of kind {self.kind} needs seconds")
        re.compile(self.path)

    def matches(self, module: str, method: str, path: str, action: str | None) -> bool:
        """Return whether the fault affects a request."""
        return (
            self.module in (None, module)
            and self.method in (None, method)
            and self.action in (None, action)
            and re.search(self.path, path) is not None
        )


class _Armed:
    __slots__ = ("fault", "left")

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.left = fault.count

    def use(self) -> bool:
        if self.left is not None:
            if not self.left:
                return False
            self.left -= 1
        return True


class Faults:
    """The faults that are set. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self._cleared = threading.Event()

    def add(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Add faults; if one is invalid (TypeError, ValueError, re.error), add none."""
        added = [_Armed(Fault(**each)) for each in documents]
        with self._lock:
            self._armed += added

    def clear(self) -> None:
        """Remove all faults; delayed requests continue at once."""
        with self._lock:
            self._armed = []
            self._cleared.set()
            self._cleared = threading.Event()

    def take(
        self, module: str, method: str, path: str, action: str | None, kinds: Container[str] = get_args(Kind)
    ) -> tuple[Fault, ...]:
        """Return the faults of these kinds that affect a request, and count a use of each."""
        if not self._armed:
            return ()
        with self._lock:
            matching = [each for each in self._armed if each.fault.matches(module, method, path, action)]
            matching = [each for each in matching if each.fault.kind in kinds]
            return tuple([each.fault for each in matching if each.use()])

    def pause(self, seconds: float) -> None:
        """Wait for so many seconds, or until the faults are cleared."""
        with self._lock:
            cleared = self._cleared
        cleared.wait(seconds)

    def document(self) -> list[dict[str, Any]]:
        """Return the faults that are set, with their remaining number of uses."""
        with self._lock:
            return [{**dataclasses.asdict(each.fault), "left": each.left} for each in self._armed]
