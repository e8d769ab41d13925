"""Faults on request: which requests they meet, how often, and what happens then.

A fault is matched on the request line alone, before anything is read. Those about HTTP (`status`, `drop_before`, `drop_after`,
`delay`, `delay_after`) are carried out around the request; the others go along with it, to whatever it sets off.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

Kind = Literal[
    "status",
    "drop_before",
    "drop_after",
    "delay",
    "delay_after",
    "hang",
    "fail",
    "crash",
    "never_start",
    "error",
]
MODULES: Final = ("design", "deploy", "disposal", "orchestrator")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        kind: `status` answers `status` without doing anything; `drop_before` cuts the connection before the effect, `drop_after`
            after it; `delay` and `delay_after` wait before and after it. On an orchestrator's phase: `hang` never reports,
            `fail` reports `failed` with `message`, `crash` ends the process once the phase is begun. On a PUT of an
            application: `never_start`, `error` with `message`. On a PUT of a disposal: `hang`, `fail` with `message`.
        module: `design`, `deploy`, `disposal` or `orchestrator`; any without.
        method: of HTTP; any without.
        path: regular expression, searched in the path below the module's mount point (`/application/<id>`); for an
            orchestrator in `/<instance>/orchestrator/default`.
        action: the term in `?action=`; any or none without.
        count: how many requests it meets; all without.
        status: what is answered, and `retry_after` (seconds) beside it.
        seconds: of a delay; for `crash`, until the process is back.
        message: why, in plain words.
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
            raise ValueError(f"{self.kind!r} is no kind of fault; {', '.join(get_args(Kind))} are")
        if self.module is not None and self.module not in MODULES:
            raise ValueError(f"{self.module!r} is no module; {', '.join(MODULES)} are")
        if self.kind in ("delay", "delay_after") and self.seconds is None:
            raise ValueError(f"a fault of kind {self.kind} needs seconds")
        re.compile(self.path)

    def meets(self, module: str, method: str, path: str, action: str | None) -> bool:
        """Whether a request is one of those."""
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

    def strikes(self) -> bool:
        if self.left is not None:
            if not self.left:
                return False
            self.left -= 1
        return True


class Faults:
    """Those that are set. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self._cleared = threading.Event()

    def add(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Set more; all or, where one is not well formed (TypeError, ValueError, re.error), none."""
        added = [_Armed(Fault(**each)) for each in documents]
        with self._lock:
            self._armed += added

    def clear(self) -> None:
        """Take all away; those who wait in a delay go on at once."""
        with self._lock:
            self._armed = []
            self._cleared.set()
            self._cleared = threading.Event()

    def take(self, module: str, method: str, path: str, action: str | None) -> tuple[Fault, ...]:
        """The faults that strike a request; each has then struck once more."""
        if not self._armed:
            return ()
        with self._lock:
            return tuple(
                [
                    each.fault
                    for each in self._armed
                    if each.fault.meets(module, method, path, action) and each.strikes()
                ]
            )

    def pause(self, seconds: float) -> None:
        """Wait, or until the faults are cleared."""
        with self._lock:
            cleared = self._cleared
        cleared.wait(seconds)

    def document(self) -> list[dict[str, Any]]:
        """Those that are set, with how often each may still strike."""
        with self._lock:
            return [{**dataclasses.asdict(each.fault), "left": each.left} for each in self._armed]
