"""What this machine runs for an instance, as disposal sees it: processes by label, whoever started them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from ..interface import HoldingsError
from .launcher import Launcher
from .orders import LaunchError


class LocalHoldings:
    """Processes of a launcher.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, launcher: Launcher, *, clock: Callable[[], float] = time.time) -> None:
        self._launcher = launcher
        self._clock = clock

    def instances(self, _installation: str) -> Mapping[str, float]:
        """Every instance with its youngest process' age in seconds; a directory is one installation's alone."""
        now = self._clock()
        found: dict[str, float] = {}
        for process in self._launcher.find():
            instance = process.name.instance
            found[instance] = min(found.get(instance, now), max(0.0, now - process.since))
        return found

    def objects(self, instance: str) -> Sequence[str]:
        """The instance's processes."""
        return [f"process {name}" for name in self._launcher.names(instance)]

    def remove(self, instance: str) -> bool:
        """End and remove them; nodes that others need go after those."""
        processes = self._launcher.find(instance=instance)
        needed = {(process.notes.get("stack"), node) for process in processes for node in _needs(process.notes)}
        free = [each for each in processes if (each.notes.get("stack"), each.notes.get("node")) not in needed]
        # The orchestrator stands by until its nodes are gone.
        nodes = [each for each in free if each.notes.get("stack")]
        try:
            gone = [self._launcher.remove(each.name) for each in nodes or free or processes]
            gone += [self._launcher.remove(each) for each in self._launcher.forgotten(instance)]
        except LaunchError as problem:
            raise HoldingsError(str(problem)) from problem
        return all(gone) and not self._launcher.names(instance)

    def remains(self, instance: str) -> Sequence[str]:
        """What the machine still has: directories, ports, processes."""
        return self._launcher.remains(instance)


def _needs(notes: Mapping[str, str]) -> list[str]:
    return notes.get("needs", "").split()
