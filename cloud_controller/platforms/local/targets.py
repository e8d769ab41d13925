"""Where a stack's nodes can be reached on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from ..interface import Target
from .launcher import Launcher
from .orders import HERE, State


class LocalTargets:
    """Nodes that are processes of a launcher."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[Target]:
        """The running instances of a node; without a port's name, at its first."""
        found = []
        for process in self._launcher.find(instance=instance):
            notes = process.notes
            if notes.get("stack") != stack or notes.get("node") != node or process.state is not State.RUNNING:
                continue
            number = process.ports.get(port) if port else next(iter(process.ports.values()), None)
            if number:
                found.append(Target(notes["key"], HERE, number, loopback=True))
        return found
