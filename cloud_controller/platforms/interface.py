"""A platform as a whole: what the modules' ports ask of it, what it is opened with, and how it tells that something has changed.

A factory is found by entry point (group `archelon.platforms`) and called with a `PlatformContext` and the region's settings as
keywords. What it gives serves web processes, which only validate and preview, and workers, which do the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ..core.labels import Labels
from ..deploy.ports import Applications, DeployError, Stacks
from ..disposal.ports import Holdings
from ..provision.ports import Configures, Names
from ..runtime.ports import Targets

__all__ = [
    "Change",
    "Changed",
    "DelegationEndedError",
    "KnownStack",
    "NeverDelegatedError",
    "NoStacks",
    "NoTokens",
    "Platform",
    "PlatformContext",
    "PlatformTokens",
    "StackBook",
    "Watcher",
]


class DelegationEndedError(DeployError):
    """Nobody acts for the tenant any more; the text says why, and what an operator can do."""


class NeverDelegatedError(DelegationEndedError):
    """An instance has no delegation: nothing can have been made in its tenant's name, or its absence has been verified."""


class PlatformTokens(Protocol):
    """Tokens of the platform's own identity service, by which it is called in a tenant's name. Thread-safe."""

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        """A token for the tenant of an instance, from the instance's delegation; remembered until it is about to end.

        Args:
            labels: of what the call is about: instance and tenant.
            fresh: the last one was refused; get another.

        Raises:
            DelegationEndedError: the delegation is revoked or lost; NeverDelegatedError: there is none.
            occi_service.client.ClientError: it cannot be asked for now.
        """


class NoTokens:
    """Of a cloud controller whose platforms need none."""

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        raise DelegationEndedError("this cloud controller has no delegations; configure its identity service")


@dataclass(frozen=True)
class KnownStack:
    """A stack that was ordered: the id of its order, whose it is, and what its platform remembers of it."""

    id: str
    labels: Labels
    record: Mapping[str, Any] = field(repr=False)


class StackBook(Protocol):
    """What was ordered for a region, so that its platform can ask for many at once. Thread-safe."""

    def moving(self) -> Sequence[KnownStack]:
        """The stacks that something is being done to: those whose platform put `moving` into their record."""

    def all(self) -> Sequence[KnownStack]:
        """Every stack."""

    def labels(self, instance: str) -> Labels | None:
        """Whose an instance is; None where nothing here is of it."""


class NoStacks:
    """Of a platform that nothing was ordered from."""

    def moving(self) -> Sequence[KnownStack]:
        return ()

    def all(self) -> Sequence[KnownStack]:
        return ()

    def labels(self, instance: str) -> Labels | None:
        return None


@dataclass(frozen=True)
class PlatformContext:
    """What a platform is opened with.

    Args:
        region: its name. directory: for what the platform keeps on this machine; made when it is needed.
        tokens: for platforms that are called in a tenant's name.
        stacks: what was ordered for the region.
    """

    region: str
    directory: Path
    tokens: PlatformTokens = field(default_factory=NoTokens)
    stacks: StackBook = field(default_factory=NoStacks)


@dataclass(frozen=True)
class Change:
    """Something has changed: a stack (by the id of its order) or an application (by its instance)."""

    kind: Literal["stack", "application"]
    id: str


Changed = Callable[[Change], None]


class Watcher(Protocol):
    """Follows a region, so that nobody has to look at each of its objects. One worker of all calls it."""

    def follow(self, changed: Changed) -> float:
        """Tell what has changed since the last call (at the first: what may have), and the seconds until the next.

        May go on telling from a thread of its own, for as long as it is called again in time and a little longer. Telling too
        much is harmless; that nothing is told must not stop anything for good.
        """


class Platform(Protocol):
    """A platform, opened for one region."""

    #: Whether it is called in a tenant's name, so that every order for the region needs a delegation.
    delegates: bool
    #: What keeps tenants' code apart on this machine, for people; None where none of it runs here.
    isolation: str | None

    @property
    def applications(self) -> Applications | None:
        """Runs orchestrators; None where it cannot."""

    @property
    def formats(self) -> Mapping[str, Stacks]:
        """Makes stacks, by the format of their templates."""

    @property
    def holdings(self) -> Holdings:
        """What it has, by instance."""

    @property
    def configures(self) -> Configures:
        """Configures nodes."""

    @property
    def names(self) -> Names | None:
        """Keeps names; None where it has no name server."""

    @property
    def targets(self) -> Targets:
        """Finds nodes."""

    @property
    def watcher(self) -> Watcher | None:
        """Follows it; None where every object is looked at."""
