"""The local platform as a whole, as the entry point group `archelon.platforms` offers it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ...deploy import ports
from ...deploy.ports import Stacks
from ...infrastructure import ResourceType
from ..declarative_stacks import DescribedStacks
from .applications import LocalApplications
from .launcher import Launcher, no_checkpoint
from .nodes import ProcessNodes
from .orders import Limits
from .sandbox import Sandbox, found_sandbox, told_of

__all__ = ["LocalPlatform"]

_logger = logging.getLogger(__name__)


class LocalPlatform:
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
        limits: Limits | None = None,
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
            node_resources = ports.node_resources("local", {"process": ProcessNodes})
        types: dict[str, ResourceType] = {name: factory(self.launcher) for name, factory in node_resources.items()}  # type: ignore[operator]
        self.applications = LocalApplications(self.launcher, runner=runner, limits=limits)
        self.node_types = types
        self.stacks = DescribedStacks(types, checkpoint=checkpoint)
        self.formats: Mapping[str, Stacks] = {"infrastructure": self.stacks}
