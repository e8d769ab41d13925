"""Inventory and targets of the local platform: processes by label, whichever worker started them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from ..interface import DeployError, InventoryError, ScrapeTarget
from .applications import LocalApplications
from .launcher import Launcher
from .orders import HERE, HOSTS, ORCHESTRATOR, LaunchError, Name, ProcessState


class LocalInventory:
    """Processes of a launcher, and what runs in its hosts. Hosts belong to no instance.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(
        self, launcher: Launcher, applications: LocalApplications, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._launcher = launcher
        self._applications = applications
        self._clock = clock

    def instances(self, _installation: str) -> Mapping[str, float]:
        """Return every instance with its youngest process' age in seconds; a directory belongs to one installation."""
        now = self._clock()
        found: dict[str, float] = {}
        for process in self._launcher.find():
            instance = process.name.instance
            if instance == HOSTS:
                continue
            found[instance] = min(found.get(instance, now), max(0.0, now - process.since))
        return found

    def objects(self, instance: str) -> Sequence[str]:
        """List the instance's processes."""
        return [f"process {name}" for name in self._launcher.names(instance)]

    def remove(self, instance: str) -> bool:
        """Terminate and remove the processes, dependent nodes first."""
        processes = self._launcher.find(instance=instance)
        needed = {(process.notes.get("stack"), node) for process in processes for node in _needs(process.notes)}
        free = [each for each in processes if (each.notes.get("stack"), each.notes.get("node")) not in needed]
        # The orchestrator goes last.
        nodes = [each for each in free if each.notes.get("stack")]
        try:
            gone = [self._remove(each.name) for each in nodes or free or processes]
            gone += [self._remove(each) for each in self._launcher.orphans(instance)]
            gone += [] if processes else [self._applications.remove(instance)]
        except (LaunchError, DeployError) as problem:
            raise InventoryError(str(problem)) from problem
        return all(gone) and not self._launcher.names(instance)

    def remains(self, instance: str) -> Sequence[str]:
        """List remaining directories, ports and processes."""
        return self._applications.remains(instance)

    def _remove(self, name: Name) -> bool:
        if name.process == ORCHESTRATOR:
            return self._applications.remove(name.instance)
        return self._launcher.remove(name)


class LocalTargets:
    """Addresses of process nodes."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[ScrapeTarget]:
        """Return the running instances of a node, by default with its first port."""
        found = []
        for process in self._launcher.find(instance=instance):
            notes = process.notes
            if notes.get("stack") != stack or notes.get("node") != node or process.state is not ProcessState.RUNNING:
                continue
            number = process.ports.get(port) if port else next(iter(process.ports.values()), None)
            if number:
                found.append(ScrapeTarget(notes["key"], HERE, number, loopback=True))
        return found


def _needs(notes: Mapping[str, str]) -> list[str]:
    return notes.get("needs", "").split()
