"""Orchestrators on this machine: in hosts, or each as a process of its own. The next worker adopts them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..health import Check, check_all
from ..interface import ApplicationOrder, ApplicationState, DeployError, Log, PollIntervals
from .hosts import Hosts
from .launcher import Launcher
from .orders import (
    ENVIRONMENT,
    HERE,
    LIMITS,
    ORCHESTRATOR,
    RESTART,
    LaunchError,
    Name,
    ProcessLimits,
    ProcessOrder,
    ProcessProgram,
    ProcessState,
    Restart,
    Running,
)

_PENDING = (ProcessState.RESERVED, ProcessState.STARTING)


class LocalApplications:
    """Applications as processes of a launcher, or in hosts; the environment says with `HOST` and `PORT` where to listen.

    Args:
        hosts: serve bundles, if they have a program; by default none, so that each application is a process of its own.
        hosting: `own` for a process of its own for each, in spite of the hosts.
        runner: argument list that runs a bundle, for orders without a command; the bundle's directory is appended.
        limits, restart: as for every process; limits default to 2 GiB of memory and 1024 files.
        tells: whether changes are reported now, so that what is steady is polled rarely.
    """

    def __init__(
        self,
        launcher: Launcher,
        *,
        hosts: Hosts | None = None,
        hosting: str = "",
        runner: tuple[str, ...] = (),
        limits: ProcessLimits | None = None,
        restart: Restart | None = None,
        tells: Callable[[], bool] = lambda: False,
    ) -> None:
        self._launcher = launcher
        self._hosts = hosts or Hosts(launcher)
        self._is_hosting = hosts is not None and hosting != "own"
        self._runner = runner
        self._limits = limits or LIMITS
        self._restart = restart or RESTART
        self._tells = tells

    @property
    def poll_intervals(self) -> PollIntervals:
        """How often to poll. Of what ends inside of a host, nothing is reported; the host starts it again."""
        reported = 60.0 if self._is_hosting else 300.0
        return PollIntervals(in_progress=0.1, steady=reported if self._tells() else 5.0)

    def start(self, order: ApplicationOrder) -> ApplicationState:
        """Start the application or adopt it. Raises DeployError."""
        if self._is_hosting and order.bundle and not order.command and order.hosting != "own":
            with _errors(order.labels.instance):
                return self._hosts.start(order)
        command = self._command(order)
        if not self._has_left(order.labels.instance, keep_log=True):
            return ApplicationState("inactive", "is stopping, to be started as a process of its own")
        environment = {**ENVIRONMENT, **order.environment}
        name = Name(order.labels.instance, ORCHESTRATOR)
        content = {"command": command, "environment": environment, "limits": vars(self._limits)}
        launch = ProcessOrder(
            name=name,
            # Without the generation: a running orchestrator receives an update as an event.
            revision=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            labels=order.labels,
            ports={"http": 0},
            limits=self._limits,
            restart=self._restart,
        )

        def program(ports: Mapping[str, int]) -> ProcessProgram:
            bundle = () if order.command else (order.bundle,)
            return ProcessProgram(command, {**environment, "HOST": HERE, "PORT": str(ports["http"])}, readable=bundle)

        with _errors(order.labels.instance):
            return self._state_of(self._launcher.start(launch, program))

    def stop(self, instance: str) -> bool:
        """Stop the application; keep its log and port. Raises DeployError."""
        if self._hosts.serves(instance):
            with _errors(instance):
                return self._hosts.stop(instance)
        return self._launcher.stop(Name(instance, ORCHESTRATOR))

    def restart(self, order: ApplicationOrder) -> ApplicationState:
        """Stop and start the application. Raises DeployError."""
        if not self.stop(order.labels.instance):
            return ApplicationState("inactive", "is stopping, to be started again")
        return self.start(order)

    def state(self, instance: str) -> ApplicationState | None:
        """Return the application's state."""
        if (hosted := self._hosts.state(instance)) is not None:
            return hosted
        found = self._launcher.observe(Name(instance, ORCHESTRATOR))
        return None if found is None else self._state_of(found)

    def remove(self, instance: str) -> bool:
        """Remove the application and its log. Raises DeployError."""
        with _errors(instance):
            return self._has_left(instance) and self._launcher.remove(Name(instance, ORCHESTRATOR))

    def read_log(self, instance: str, since: int = 0) -> Log:
        """Return output from position `since` on."""
        chunk = self._hosts.read_log(instance, since)
        return Log(chunk.data, chunk.start, chunk.next)

    def remains(self, instance: str) -> Sequence[str]:
        """List what remains of the instance: of its application and of its stacks' nodes."""
        return (*self._launcher.remains(instance), *self._hosts.remains(instance))

    def _has_left(self, instance: str, *, keep_log: bool = False) -> bool:
        """Whether nothing of the instance is in a host; else it is about to leave. Raises DeployError."""
        with _errors(instance):
            return not self._hosts.serves(instance) or self._hosts.leave(instance, keep_log=keep_log)

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


@contextlib.contextmanager
def _errors(instance: str) -> Iterator[None]:
    """Report failures of the launcher and the file system as DeployError."""
    try:
        yield
    except LaunchError as problem:
        raise DeployError(str(problem)) from problem
    except OSError as problem:
        raise DeployError(f"the files of {instance}'s orchestrator cannot be changed: {problem.strerror}") from problem
