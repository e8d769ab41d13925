"""An application: the order to deploy for one instance, and its processes, one at a time.

The platform restarts a crashed container, with its environment only. Each start creates a new `OrchestratorProcess`, which has
no state of the previous one.
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
    """The application to run.

    Attributes:
        runs: digest of the bundle, or the image. settings: parsed from its environment.
    """

    instance: str
    tenant: str
    generation: int
    runs: str
    settings: Settings


class Container:
    """A container of an orchestrator. All methods are called with the fake state's lock held.

    Attributes:
        state: `occi.app.state`, with `message`.
        process: the running process, or None.
        starts: number of processes so far.
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
        """The URL of its orchestrator while that runs."""
        return f"{self._state.base}/orchestrators/{self.order.instance}"

    def start(self, fault: Fault | None = None) -> None:
        """Start it after `start_delay`; a fault may prevent that."""
        self.state, self.message = "inactive", "starting"
        if fault is None:
            self._start_in(self._state.settings.start_delay)
        elif fault.kind == "error":
            self.state, self.message = "error", fault.message or "the container could not be started"
            self._effect("application failed", message=self.message)
        else:
            self._effect("application never starts")

    def stop(self, why: str = "stopped") -> None:
        """End the process, and start no other one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.process is not None:
            self.process.end()
            self._effect("application stopped", process=self.process.number, why=why)
            self.process = None
        self.state, self.message = "inactive", why

    def change(self, order: Order) -> None:
        """Apply a newer order: restart a container with another bundle, and one that has failed."""
        before, self.order = self.order, order
        if before.runs != order.runs:
            self._effect("application rolled", generation=order.generation)
            self.stop("rolled")
            self.start()
        elif self.state == "error" and order.generation > before.generation:
            self.start()

    def crash(self, seconds: float | None = None) -> None:
        """End the process without notice; the platform restarts it after so many seconds, by default `restart_delay`."""
        if self.process is None:
            return
        self._effect("orchestrator crashed", process=self.process.number)
        self.stop("crashed")
        self._start_in(self._state.settings.restart_delay if seconds is None else seconds)

    def _start_in(self, seconds: float) -> None:
        ordered = time.monotonic()
        self._timer = self._state.after(seconds, lambda: self._up(ordered))

    def _up(self, ordered: float) -> None:
        with self._state.lock:
            if self._timer is None:
                # Stopped while this waited for the lock.
                return
            self._timer = None
            self.starts += 1
            try:
                self.process = OrchestratorProcess(
                    self._state, self.order.settings, number=self.starts, crash=self.crash
                )
            except ValueError as error:
                # Like a process that cannot parse its environment: it reports the reason and exits.
                self.state, self.message = "error", f"the orchestrator's environment: {error}"
                self._effect("application failed", message=self.message)
                return
            self.state, self.message = "active", ""
            self._effect("application started", process=self.starts, seconds=time.monotonic() - ordered)
            self.process.begin()

    def _effect(self, name: str, **fields: object) -> None:
        self._state.journal.effect(name, self.order.instance, **fields)
