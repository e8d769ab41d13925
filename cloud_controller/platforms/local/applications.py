"""Orchestrators as processes of this machine, one per instance, adopted by the next worker."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence

from ..health import Check, check_all
from ..interface import ApplicationOrder, ApplicationState, DeployError, Log, PollIntervals
from .launcher import Launcher
from .orders import HERE, LaunchError, Name, ProcessLimits, ProcessOrder, ProcessProgram, ProcessState, Restart, Running

_PROCESS = "orchestrator"
#: Default limits of an orchestrator, so that a leak terminates the orchestrator and not the machine.
_LIMITS = ProcessLimits(memory=2 << 30, files=1024)
_PENDING = (ProcessState.RESERVED, ProcessState.STARTING)


class LocalApplications:
    """Applications as processes of a launcher.

    Args:
        runner: argument list that runs a bundle, for orders without a command; the bundle's directory is appended.
        environment: defaults of every application; by default a PATH. `HOST` and `PORT`, where it must listen, are added.
        limits, restart, grace: as for every process; limits default to 2 GiB of memory and 1024 files.
        tells: whether changes are reported now, so that what is steady is polled rarely.
    """

    def __init__(
        self,
        launcher: Launcher,
        *,
        runner: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        limits: ProcessLimits | None = None,
        restart: Restart | None = None,
        grace: float = 10.0,
        tells: Callable[[], bool] = lambda: False,
    ) -> None:
        self._launcher = launcher
        self._runner = runner
        self._environment = {"PATH": os.defpath} if environment is None else dict(environment)
        self._limits = limits or _LIMITS
        self._restart = restart or Restart("always", limit=5)
        self._grace = grace
        self._tells = tells

    @property
    def poll_intervals(self) -> PollIntervals:
        """How often to poll."""
        return PollIntervals(in_progress=0.1, steady=300.0 if self._tells() else 5.0)

    def start(self, order: ApplicationOrder) -> ApplicationState:
        """Start the application or adopt it. Raises DeployError."""
        command = self._command(order)
        environment = {**self._environment, **order.environment}
        name = Name(order.labels.instance, _PROCESS)
        content = {"command": command, "environment": environment, "limits": vars(self._limits)}
        launch = ProcessOrder(
            name=name,
            # Without the generation: a running orchestrator receives an update as an event.
            revision=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            labels=order.labels,
            ports={"http": 0},
            limits=self._limits,
            restart=self._restart,
            grace=self._grace,
        )

        def program(ports: Mapping[str, int]) -> ProcessProgram:
            bundle = () if order.command else (order.bundle,)
            return ProcessProgram(command, {**environment, "HOST": HERE, "PORT": str(ports["http"])}, readable=bundle)

        try:
            return self._state_of(self._launcher.start(launch, program))
        except LaunchError as problem:
            raise DeployError(str(problem)) from problem

    def stop(self, instance: str) -> bool:
        """Stop the application; keep its log and port."""
        return self._launcher.stop(Name(instance, _PROCESS))

    def restart(self, order: ApplicationOrder) -> ApplicationState:
        """Stop and start the application. Raises DeployError."""
        if not self.stop(order.labels.instance):
            return ApplicationState("inactive", "is stopping, to be started again")
        return self.start(order)

    def state(self, instance: str) -> ApplicationState | None:
        """Return the application's state."""
        found = self._launcher.observe(Name(instance, _PROCESS))
        return None if found is None else self._state_of(found)

    def remove(self, instance: str) -> bool:
        """Remove the application and its log. Raises DeployError."""
        try:
            return self._launcher.remove(Name(instance, _PROCESS))
        except LaunchError as problem:
            raise DeployError(str(problem)) from problem

    def read_log(self, instance: str, since: int = 0) -> Log:
        """Return output from position `since` on."""
        chunk = self._launcher.read_log(Name(instance, _PROCESS), since)
        return Log(chunk.data, chunk.start, chunk.next)

    def remains(self, instance: str) -> Sequence[str]:
        """List what remains of the instance: of its application and of its stacks' nodes."""
        return self._launcher.remains(instance)

    def _command(self, order: ApplicationOrder) -> tuple[str, ...]:
        if order.image and not order.command:
            raise DeployError("the local platform runs no images; use a bundle, a command, or another platform")
        if order.command:
            return order.command
        if not order.bundle or not self._runner:
            raise DeployError("the order has neither a command nor a bundle")
        return (*self._runner, order.bundle)

    def _state_of(self, found: Running) -> ApplicationState:
        port = found.ports.get("http")
        url = f"http://{HERE}:{port}/" if port else ""
        if found.state is ProcessState.RUNNING and port:
            problem = check_all([Check(ports=found.ports, asked_ports=("http",), timeout=1.0)])[0]
            if problem:
                return ApplicationState("inactive", f"does not listen yet ({problem})", url)
            return ApplicationState("active", url=url)
        if found.state in (ProcessState.RESTARTING, ProcessState.FAILED, ProcessState.LOST, ProcessState.EXITED):
            return ApplicationState("error", found.message or "ended", url)
        if found.state in _PENDING:
            return ApplicationState("inactive", "is starting", url)
        return ApplicationState("inactive", "is stopping" if found.state is ProcessState.STOPPING else "", url)
