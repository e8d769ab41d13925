"""The local platform, applications and stacks on this machine, opened from a region's settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...infrastructure.resources import ResourceType
from .. import entry_points
from ..declarative_stacks import DeclarativeStacks
from ..interface import DeployError, Platform, PlatformContext, Stacks
from .applications import LocalApplications
from .configures import LocalConfigures
from .hosts import Hosts
from .inventory import LocalInventory, LocalTargets
from .launcher import Launcher, no_checkpoint
from .nodes import ProcessNodes
from .orders import ProcessLimits
from .sandbox import Sandbox, describe_isolation, detect_sandbox
from .watcher import LocalWatcher

#: Seconds that a step waits for the processes that it has started or stopped.
_PATIENCE = 0.5

_logger = logging.getLogger(__name__)


class LocalPlatform(Platform):
    """Applications and stacks on this machine.

    Args:
        root: directory of all processes.
        runner: argument list that runs a bundle; the bundle's directory is appended.
        host: argument list of a host, which serves the bundles of many instances; without it, each has a process of its own.
        hosting: `own` for a process for each, in spite of `host`.
        instances_per_host: instances without code in one host, before another is started.
        node_resources: factories of resource types by name, each called with the launcher; by default `process`, and those of
            the entry point group `archelon.node_resources`.
        limits: of each orchestrator, by the names of `ProcessLimits`; by default those of `LocalApplications`.
        refused_ports: ports of the installation, never assigned to a process.
        shared: whether several tenants' processes may run at once without isolation.
        readable, writable: paths that every process can access besides the system and its own directory.
        checkpoint: called with a name at each point of interest to crash tests.

    Raises:
        DeployError: a limit, `hosting` or `instances_per_host` is invalid.
    """

    def __init__(
        self,
        root: Path,
        *,
        runner: Sequence[str] = (),
        host: Sequence[str] = (),
        hosting: str = "",
        instances_per_host: int = 1000,
        node_resources: Mapping[str, object] | None = None,
        limits: Mapping[str, int] | None = None,
        refused_ports: Collection[int] = (),
        shared: bool = False,
        readable: Sequence[str] = (),
        writable: Sequence[str] = (),
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        for name, value in [*(limits or {}).items(), ("instances_per_host", instances_per_host)]:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DeployError(f"the limit {name} of an orchestrator is {value!r}; use a positive integer")
        if hosting not in ("", "own"):
            raise DeployError(f"hosting is {hosting!r}; use 'own', or omit it")
        found = detect_sandbox(root, readable=readable, writable=writable)
        self.isolation: str | None = describe_isolation(found, shared=shared)
        _logger.log(
            logging.INFO if isinstance(found, Sandbox) else logging.WARNING,
            "isolation of tenants' processes",
            extra={"isolation": self.isolation},
        )
        self.launcher = Launcher(
            root,
            refused_ports=refused_ports,
            sandbox=found if isinstance(found, Sandbox) else None,
            shared=shared,
            checkpoint=checkpoint,
        )
        if node_resources is None:
            node_resources = entry_points.node_resources("local", {"process": ProcessNodes})
        types: dict[str, ResourceType] = {name: factory(self.launcher) for name, factory in node_resources.items()}  # type: ignore[operator]
        self.watcher: LocalWatcher = LocalWatcher(self.launcher)
        bounds = ProcessLimits(**limits) if limits else None
        hosts = None
        if host:
            hosts = Hosts(
                self.launcher, program=host, limits=bounds, per_host=instances_per_host, checkpoint=checkpoint
            )
        self.applications = LocalApplications(
            self.launcher,
            hosts=hosts,
            hosting=hosting,
            runner=tuple(runner),
            limits=bounds,
            tells=lambda: self.watcher.tells,
        )
        self.node_types = types
        self.stacks = DeclarativeStacks(types, patience=_PATIENCE, watcher=self.watcher, checkpoint=checkpoint)
        self.formats: Mapping[str, Stacks] = {"infrastructure": self.stacks}
        self.inventory = LocalInventory(self.launcher, self.applications)
        self.configures = LocalConfigures(self.launcher)
        self.targets = LocalTargets(self.launcher)


def open_local(context: PlatformContext, **settings: Any) -> LocalPlatform:
    """Open the platform in the context's directory, with the settings of `LocalPlatform`. Raises DeployError, TypeError."""
    return LocalPlatform(context.directory, **settings)
