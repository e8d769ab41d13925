"""An application: what deploy was asked to run for one instance, and the process, one at a time, that comes of it.

A container that crashes is started again by the platform, with its environment and nothing else. Each start makes a new
`OrchestratorProcess`; that it forgets everything is the point.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Literal

from sdk.settings import Settings

from .faults import Fault
from .orchestrator import OrchestratorProcess

if TYPE_CHECKING:
    from .state import FakeState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to run.

    Attributes:
        runs: digest of the bundle, or the image. settings: what its environment says.
    """

    instance: str
    tenant: str
    generation: int
    runs: str
    settings: Settings


class Container:
    """All methods are called under the fake state's lock.

    Attributes:
        state: `occi.app.state`, with `message`.
        process: what runs; None where nothing does.
        starts: how many processes there have been.
    """

    def __init__(self, state: FakeState, order: Order) -> None:
        self._state = state
        self.order = order
        self.state: Literal["active", "inactive", "error"] = "inactive"
        self.message = ""
        self.process: OrchestratorProcess | None = None
        self.starts = 0
        self._timer: threading.Timer | None = None

    @property
    def url(self) -> str:
        """Where its orchestrator answers, once it does."""
        return f"{self._state.base}/orchestrators/{self.order.instance}"

    def start(self, fault: Fault | None = None) -> None:
        """Start it, in `start_delay`; a fault may keep it from ever being up."""
        self.state, self.message = "inactive", "starting"
        if fault is None:
            self._start_in(self._state.settings.start_delay)
        elif fault.kind == "error":
            self.state, self.message = "error", fault.message or "the container could not be started"
            self._effect("application failed", message=self.message)
        else:
            self._effect("application never starts")

    def stop(self, why: str = "stopped") -> None:
        """End the process, and start no other."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.process is not None:
            self.process.end()
            self._effect("application stopped", process=self.process.number, why=why)
            self.process = None
        self.state, self.message = "inactive", why

    def change(self, order: Order) -> None:
        """Take a newer order: what runs something else is started anew, and so is what failed."""
        before, self.order = self.order, order
        if before.runs != order.runs:
            self._effect("application rolled", generation=order.generation)
            self.stop("rolled")
            self.start()
        elif self.state == "error" and order.generation > before.generation:
            self.start()

    def crash(self, seconds: float | None = None) -> None:
        """End the process without a word; the platform has it up again in so many seconds, else `restart_delay`."""
        if self.process is None:
            return
        self._effect("orchestrator crashed", process=self.process.number)
        self.stop("crashed")
        self._start_in(self._state.settings.restart_delay if seconds is None else seconds)

    def _start_in(self, seconds: float) -> None:
        asked = time.monotonic()
        self._timer = self._state.after(seconds, lambda: self._up(asked))

    def _up(self, asked: float) -> None:
        with self._state.lock:
            if self._timer is None:
                # It was stopped while this waited for the lock.
                return
            self._timer = None
            self.starts += 1
            try:
                self.process = OrchestratorProcess(
                    self._state, self.order.settings, number=self.starts, crash=self.crash
                )
            except ValueError as error:
                # What a process that cannot read its environment does: it says why, and exits.
                self.state, self.message = "error", f"the orchestrator's environment: {error}"
                self._effect("application failed", message=self.message)
                return
            self.state, self.message = "active", ""
            self._effect("application started", process=self.starts, seconds=time.monotonic() - asked)
            self.process.begin()

    def _effect(self, name: str, **fields: object) -> None:
        self._state.journal.effect(name, self.order.instance, **fields)
