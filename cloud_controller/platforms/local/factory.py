"""The local platform with everything that the modules need of it, made of a region's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...deploy.ports import DeployError
from ..interface import PlatformContext
from .configures import LocalConfigures
from .inventory import LocalHoldings
from .launcher import no_checkpoint
from .orders import Limits
from .platform import LocalPlatform
from .targets import LocalTargets

__all__ = ["OpenLocal", "open_local"]


class OpenLocal(LocalPlatform):
    """The platform, and what the other modules ask of it."""

    delegates = False
    watcher = None
    #: Orchestrators here write zone files themselves, where they are told to.
    names = None

    def __init__(
        self,
        root: Path,
        *,
        runner: tuple[str, ...],
        limits: Limits | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, runner=runner, limits=limits, **settings)
        self.holdings = LocalHoldings(self.launcher)
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
) -> OpenLocal:
    """Open the platform.

    Args:
        context: its directory holds everything that runs.
        runner: argument list that runs a bundle; the bundle's directory is appended.
        limits: of each orchestrator, as `Limits` names them; its defaults without.
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
    return OpenLocal(
        context.directory,
        runner=tuple(runner),
        limits=Limits(**limits) if limits else None,
        shared=shared,
        refused_ports=tuple(refused_ports),
        readable=tuple(readable),
        writable=tuple(writable),
        checkpoint=checkpoint,
    )
