"""The resource type `process`: a node as a process of this machine.

Its keys are in `bundles.infrastructure.resource_types.process`. By default a process that exits is not restarted here: the stack
reports it and recreates the node.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bundles.infrastructure import resource_types
from bundles.infrastructure.description import Implementation
from bundles.infrastructure.rendering import Scalar, Value

from ...infrastructure.resources import Condition, NodeError, ObservedNode, WantedNode
from ..contents import filled, pairs_of, text_of
from ..health import Check, check_all
from ..interface import Log
from .launcher import Launcher
from .orders import HERE, LaunchError, Name, ProcessLimits, ProcessOrder, ProcessProgram, ProcessState, Restart, Running

_CONDITIONS = {
    ProcessState.RESERVED: Condition.PENDING,
    ProcessState.STARTING: Condition.PENDING,
    ProcessState.RUNNING: Condition.RUNNING,
    ProcessState.RESTARTING: Condition.RUNNING,
    ProcessState.STOPPING: Condition.STOPPING,
    ProcessState.STOPPED: Condition.STOPPED,
    ProcessState.EXITED: Condition.FAILED,
    ProcessState.FAILED: Condition.FAILED,
    ProcessState.LOST: Condition.FAILED,
}
#: Seconds that one step waits for a process to end; later steps continue, so that each stays within its lease.
_WAIT = 0.5
#: Default environment of a process.
_PATH = {"PATH": os.defpath}


class ProcessNodes:
    """Nodes as processes of a launcher.

    Args:
        environment: default variables of every process; by default a PATH.
    """

    def __init__(self, launcher: Launcher, *, environment: Mapping[str, str] | None = None) -> None:
        self._launcher = launcher
        self._environment = dict(_PATH if environment is None else environment)
        #: The instances of stacks with processes, which never change.
        self._instances: dict[str, str] = {}

    @staticmethod
    def check(implementation: Implementation) -> None:
        """Check the resource of a process. Raises DescriptionError with the place."""
        resource_types.process.check(implementation)

    def ensure(self, wanted: WantedNode) -> None:
        """Start, adopt or replace the process. Raises NodeError."""
        resource = wanted.properties["resource"]
        assert isinstance(resource, dict)
        name = Name(wanted.labels.instance, f"{wanted.stack}.{wanted.key}")
        order = ProcessOrder(
            name=name,
            revision=wanted.revision,
            labels=wanted.labels,
            ports=_ports(resource.get("ports")),
            directory=str(resource.get("directory") or "."),
            limits=ProcessLimits(**_mapping(resource.get("limits"))),
            restart=Restart(**_mapping(resource.get("restart"))),
            grace=float(_mapping({"grace": resource.get("grace")})["grace"] or 10.0),
            notes={"stack": wanted.stack, "key": wanted.key, "node": wanted.node, "needs": " ".join(wanted.needs)},
        )
        try:
            self._launcher.start(
                order, lambda ports: self._program(wanted, _attributes(name, wanted.key, ports)), wait=_WAIT
            )
        except LaunchError as problem:
            raise NodeError(str(problem)) from problem

    def halt(self, stack: str, key: str) -> bool:
        """Stop the process; keep files and ports."""
        return all(self._launcher.stop(name, wait=_WAIT) for name in self._names(stack, key))

    def remove(self, stack: str, key: str) -> bool:
        """Stop the process and remove it. Raises NodeError."""
        try:
            return all(self._launcher.remove(name, wait=_WAIT) for name in self._names(stack, key))
        except LaunchError as problem:
            raise NodeError(str(problem)) from problem

    def observe(self, stack: str) -> Sequence[ObservedNode]:
        """Return the stack's processes on this machine."""
        found = [self._launcher.observe(name) for name in self._names(stack, None)]
        return [_observed(process) for process in found if process is not None]

    def healthy(self, asked: Sequence[tuple[WantedNode, ObservedNode]], wait: float = 0.0) -> Mapping[str, str]:
        """Run all checks concurrently; return the problems by key."""
        problems = check_all([self.check_of(wanted, seen) for wanted, seen in asked], wait)
        return {wanted.key: problem for (wanted, _), problem in zip(asked, problems, strict=True)}

    def read_log(self, stack: str, key: str, since: int = 0) -> Log | None:
        """Return output from position `since` (bytes) on; None if there is no such process."""
        for name in self._names(stack, key):
            chunk = self._launcher.read_log(name, since)
            return Log(chunk.data, chunk.start, chunk.next)
        return None

    def read_tail(self, stack: str, key: str, limit: int) -> bytes:
        """Return the last bytes of output, at most `limit`."""
        return b"".join([self._launcher.read_tail(name, limit) for name in self._names(stack, key)])

    def _names(self, stack: str, key: str | None) -> list[Name]:
        # By name, not by notes: an interrupted removal may have deleted those.
        names = self._launcher.names(self._instances.get(stack))
        found = [name for name in names if name.process.partition(".")[0] == stack]
        if found:
            self._instances[stack] = found[0].instance
        else:
            self._instances.pop(stack, None)
        return [name for name in found if key in (None, name.process.partition(".")[2])]

    def _program(self, wanted: WantedNode, attributes: Mapping[str, Scalar]) -> ProcessProgram:
        content = filled(wanted, attributes)
        command: list[str] = []
        environment = dict(self._environment)
        files: dict[str, str] = {}
        for part in (content["resource"], content["contextualisation"]):
            command = [text_of(argument) for argument in part.get("command") or []] or command
            for key in ("environment", "env"):
                environment.update(pairs_of(part.get(key)))
            files.update(pairs_of(part.get("files")))
        for text in (*command, *environment.values()):
            if "\0" in text:
                raise NodeError(f"an argument or variable of {wanted.key} has a NUL character; remove it")
        return ProcessProgram(tuple(command), environment, files)

    def check_of(self, wanted: WantedNode, seen: ObservedNode) -> Check:
        """Return the check of a process, without references."""
        name = Name(wanted.labels.instance, f"{wanted.stack}.{wanted.key}")
        content = filled(wanted, seen.attributes)["health_check"]
        described = _mapping(wanted.properties["health_check"]).get("urls") or ()
        ports = {
            key.removeprefix("ports."): int(str(value))
            for key, value in seen.attributes.items()
            if key.startswith("ports.")
        }
        environment: Mapping[str, str] = {}
        if content.get("commands"):
            environment = self._program(wanted, seen.attributes).environment
        return Check(
            ports=ports,
            asked_ports=tuple(text_of(port) for port in content.get("ports") or ()),
            urls=tuple(text_of(url) for url in content.get("urls") or ()),
            shown={text_of(url): text_of(raw) for url, raw in zip(content.get("urls") or (), described, strict=True)},
            mysql=bool(content.get("mysqldbs")),
            commands=tuple(tuple(text_of(word) for word in command) for command in content.get("commands") or ()),
            spawn=lambda command: self._launcher.attached(name, command, environment),
            timeout=min(5.0, wanted.health.timeout),
        )


def _ports(value: Value) -> dict[str, int]:
    if isinstance(value, dict):
        return {name: int(str(number)) for name, number in value.items()}
    return {str(name): 0 for name in value} if isinstance(value, list) else {}


def _mapping(value: Value) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _attributes(name: Name, key: str, ports: Mapping[str, int]) -> dict[str, Scalar]:
    attributes: dict[str, Scalar] = {"address": HERE, "addresses": HERE, "id": str(name), "name": key}
    for port, number in ports.items():
        attributes.setdefault("port", number)
        attributes.setdefault("endpoints", f"{HERE}:{number}")
        attributes[f"ports.{port}"] = number
    return attributes


def _observed(process: Running) -> ObservedNode:
    stack_key = process.name.process.partition(".")[2]
    notes = process.notes
    condition = _CONDITIONS[process.state]
    return ObservedNode(
        key=stack_key,
        node=notes.get("node", stack_key.rpartition(".")[0]),
        type="process",
        condition=condition,
        revision=process.revision,
        needs=tuple(notes.get("needs", "").split()),
        attributes=_attributes(process.name, stack_key, process.ports),
        healthy=False if process.state is ProcessState.RESTARTING else None,
        since=process.since,
        message=process.message,
    )


_: Callable[[Launcher], object] = ProcessNodes
