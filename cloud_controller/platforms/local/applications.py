"""Orchestrators as processes of this machine, one an instance, adopted by whichever worker asks next."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence

from ..health import Check, check_all
from ..interface import ApplicationOrder, ApplicationState, DeployError, Log, PollIntervals
from .launcher import Launcher
from .orders import HERE, LaunchError, Name, Order, ProcessLimits, Program, Restart, Running, State

_PROCESS = "orchestrator"
#: Of an orchestrator, where its region says nothing else: one that leaks ends, and not the machine.
_LIMITS = ProcessLimits(memory=2 << 30, files=1024)
_WAYS_UP = (State.RESERVED, State.STARTING)


class LocalApplications:
    """Applications as processes of a launcher.

    Args:
        runner: argument list that runs a bundle; the bundle's directory is appended. For orders without a command.
        environment: what every application sees below what its order says; by default a PATH. `HOST` and `PORT` come on top:
            where it must listen.
        limits, restart, grace: as for every process; without limits 2 GiB of memory and 1024 files.
    """

    #: Nobody tells: processes are looked at.
    pace = PollIntervals(under_way=0.1, standing=5.0)

    def __init__(
        self,
        launcher: Launcher,
        *,
        runner: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        limits: ProcessLimits | None = None,
        restart: Restart | None = None,
        grace: float = 10.0,
    ) -> None:
        self._launcher = launcher
        self._runner = runner
        self._environment = {"PATH": os.defpath} if environment is None else dict(environment)
        self._limits = limits or _LIMITS
        self._restart = restart or Restart("always", limit=5)
        self._grace = grace

    def start(self, order: ApplicationOrder) -> ApplicationState:
        """Make it run, or adopt it. Raises DeployError."""
        command = self._command(order)
        environment = {**self._environment, **order.environment}
        name = Name(order.labels.instance, _PROCESS)
        what = {"command": command, "environment": environment, "limits": vars(self._limits)}
        launch = Order(
            name=name,
            # The generation is no reason to restart: an update reaches a running orchestrator as an event.
            revision=hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest(),
            labels=order.labels,
            ports={"http": 0},
            limits=self._limits,
            restart=self._restart,
            grace=self._grace,
        )

        def program(ports: Mapping[str, int]) -> Program:
            bundle = () if order.command else (order.bundle,)
            return Program(command, {**environment, "HOST": HERE, "PORT": str(ports["http"])}, readable=bundle)

        try:
            return self._told(self._launcher.start(launch, program))
        except LaunchError as problem:
            raise DeployError(str(problem)) from problem

    def stop(self, instance: str) -> bool:
        """End it; its log and port stay."""
        return self._launcher.stop(Name(instance, _PROCESS))

    def restart(self, order: ApplicationOrder) -> ApplicationState:
        """End it and start it. Raises DeployError."""
        if not self.stop(order.labels.instance):
            return ApplicationState("inactive", "is stopping, to be started again")
        return self.start(order)

    def state(self, instance: str) -> ApplicationState | None:
        """As it is now."""
        found = self._launcher.observe(Name(instance, _PROCESS))
        return None if found is None else self._told(found)

    def remove(self, instance: str) -> bool:
        """Take it away with its log. Raises DeployError."""
        try:
            return self._launcher.remove(Name(instance, _PROCESS))
        except LaunchError as problem:
            raise DeployError(str(problem)) from problem

    def read_log(self, instance: str, since: int = 0) -> Log:
        """Output from position `since` on."""
        chunk = self._launcher.read_log(Name(instance, _PROCESS), since)
        return Log(chunk.data, chunk.start, chunk.next)

    def remains(self, instance: str) -> Sequence[str]:
        """What this machine still has of the instance, in words: of its application and of its stacks' nodes."""
        return self._launcher.remains(instance)

    def _command(self, order: ApplicationOrder) -> tuple[str, ...]:
        if order.image and not order.command:
            raise DeployError(
                "the local platform runs no images; give a bundle or a command, or choose another platform"
            )
        if order.command:
            return order.command
        if not order.bundle or not self._runner:
            raise DeployError("there is neither a command nor a bundle to run; give one")
        return (*self._runner, order.bundle)

    def _told(self, found: Running) -> ApplicationState:
        port = found.ports.get("http")
        url = f"http://{HERE}:{port}/" if port else ""
        if found.state is State.RUNNING and port:
            wrong = check_all([Check(ports=found.ports, asked_ports=("http",), timeout=1.0)])[0]
            return (
                ApplicationState("active", url=url)
                if not wrong
                else ApplicationState("inactive", f"does not listen yet ({wrong})", url)
            )
        if found.state is State.RESTARTING:
            return ApplicationState("error", found.message, url)
        if found.state in (State.FAILED, State.LOST, State.EXITED):
            return ApplicationState("error", found.message or "ended", url)
        if found.state in _WAYS_UP:
            return ApplicationState("inactive", "is starting", url)
        return ApplicationState("inactive", "is stopping" if found.state is State.STOPPING else "", url)
