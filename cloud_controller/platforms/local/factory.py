"""The local platform: applications and stacks on this machine, made of a region's settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ...infrastructure.resources import ResourceType
from .. import entry_points
from ..declarative_stacks import DescribedStacks
from ..interface import DeployError, Platform, PlatformContext, Stacks
from .applications import LocalApplications
from .configures import LocalConfigures
from .inventory import LocalInventory, LocalTargets
from .launcher import Launcher, no_checkpoint
from .nodes import ProcessNodes
from .orders import ProcessLimits
from .sandbox import Sandbox, found_sandbox, told_of

_logger = logging.getLogger(__name__)


class LocalPlatform(Platform):
    """Applications and stacks on this machine.

    Args:
        root: directory of everything that runs.
        runner: argument list that runs a bundle; its directory is appended.
        node_resources: factories of resource types by name, each called with the launcher; by default `process`, and those of
            the entry point group `archelon.node_resources`.
        limits: of each orchestrator.
        refused_ports, shared: as `Launcher` has them.
        readable, writable: paths that every process sees beside the system and its own directory.
        checkpoint: called with a name at every point where being killed could matter.
    """

    def __init__(
        self,
        root: Path,
        *,
        runner: tuple[str, ...] = (),
        node_resources: Mapping[str, object] | None = None,
        limits: ProcessLimits | None = None,
        refused_ports: Collection[int] = (),
        shared: bool = False,
        readable: Sequence[str] = (),
        writable: Sequence[str] = (),
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        found = found_sandbox(root, readable=readable, writable=writable)
        self.isolation: str | None = told_of(found, shared=shared)
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
        self.applications = LocalApplications(self.launcher, runner=runner, limits=limits)
        self.node_types = types
        self.stacks = DescribedStacks(types, checkpoint=checkpoint)
        self.formats: Mapping[str, Stacks] = {"infrastructure": self.stacks}
        self.inventory = LocalInventory(self.launcher)
        self.configures = LocalConfigures(self.launcher)
        self.targets = LocalTargets(self.launcher)


def open_local(
    context: PlatformContext,
    *,
    runner: list[str] | tuple[str, ...] = (),
    limits: Mapping[str, int] | None = None,
    shared: bool = False,
    refused_ports: Sequence[int] = (),
    readable: Sequence[str] = (),
    writable: Sequence[str] = (),
    checkpoint: Callable[[str], None] = no_checkpoint,
) -> LocalPlatform:
    """Open the platform.

    Args:
        context: its directory holds everything that runs.
        runner: argument list that runs a bundle; the bundle's directory is appended.
        limits: of each orchestrator, as `ProcessLimits` names them; its defaults without.
        shared: whether several tenants' processes may run at once where this machine cannot keep them apart.
        refused_ports: the installation's own, that no process is given.
        readable, writable: paths of this machine that every process sees beside the system and its own directory.
        checkpoint: called with a name at every point where being killed could matter.

    Raises:
        DeployError: a limit is no number that can be one.
    """
    for name, value in (limits or {}).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DeployError(f"the limit {name} of an orchestrator is {value!r}; give a whole number from 1 on")
    return LocalPlatform(
        context.directory,
        runner=tuple(runner),
        limits=ProcessLimits(**limits) if limits else None,
        shared=shared,
        refused_ports=tuple(refused_ports),
        readable=tuple(readable),
        writable=tuple(writable),
        checkpoint=checkpoint,
    )
