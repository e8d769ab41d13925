"""The local platform with everything that the modules need of it, made of a region's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...deploy.ports import DeployError
from ...platform import PlatformContext
from .configures import LocalConfigures
from .holdings import LocalHoldings
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
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        super().__init__(root, runner=runner, limits=limits, checkpoint=checkpoint)
        self.holdings = LocalHoldings(self.launcher)
        self.configures = LocalConfigures(self.launcher)
        self.targets = LocalTargets(self.launcher)


def open_local(
    context: PlatformContext,
    *,
    runner: list[str] | tuple[str, ...] = (),
    limits: Mapping[str, int] | None = None,
    checkpoint: Callable[[str], None] = no_checkpoint,
) -> OpenLocal:
    """Open the platform.

    Args:
        context: its directory holds everything that runs.
        runner: argument list that runs a bundle; the bundle's directory is appended.
        limits: of each orchestrator, as `Limits` names them; its defaults without.
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
        checkpoint=checkpoint,
    )
