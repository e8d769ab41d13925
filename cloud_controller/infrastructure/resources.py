"""What a node can be made of: resource types, a platform's own and those found by entry point.

A description names a type (`resource: {type: process}`). A package that knows how to make another offers it under the entry point
group `archelon.node_resources`. So servers, containers and pods join without a change here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..core.labels import Labels
from .rendering import Scalar, Value

if TYPE_CHECKING:
    from .description import Health, Implementation


class NodeError(Exception):
    """A node cannot be made or removed; the text says why, and holds no secret."""


class Condition(enum.Enum):
    """How an instance of a node is, as planning sees it."""

    PENDING = "pending"  #: there is something of it, but it was never started, or is just starting
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"  #: ended because it was asked to
    FAILED = "failed"  #: ended by itself, or is lost


@dataclass(frozen=True)
class WantedNode:
    """One instance of a node as it should be.

    Args:
        key: names it among all instances of the stack, such as `web.0`.
        revision: digest of all that a change of should make it anew.
        properties: resource and contextualisation as described, references and all.
        values: what the references stand for, except `self.…`, which is known when the resource is made. The type puts both
            into the properties in one pass, with `rendering.substitute`.
        needs: names of the nodes before it; kept with it, so that it can be taken down in order without the description.
    """

    stack: str
    key: str
    node: str
    revision: str
    type: str
    properties: Mapping[str, Value] = field(repr=False)
    values: Mapping[str, Scalar] = field(repr=False)
    health: Health
    needs: tuple[str, ...]
    labels: Labels


@dataclass(frozen=True)
class ObservedNode:
    """One instance of a node as it is.

    Args:
        attributes: `address`, `port`, `ports.<name>`, `id`, `name` and what the type adds.
        healthy: what the health check says; None where it was not asked.
        since: seconds since the epoch at which it came into its condition.
        message: why, for people.
    """

    key: str
    node: str
    type: str
    condition: Condition
    revision: str = ""
    needs: tuple[str, ...] = ()
    attributes: Mapping[str, Scalar] = field(default_factory=dict)
    healthy: bool | None = None
    since: float = 0.0
    message: str = ""


class ResourceType(Protocol):
    """Makes, finds and removes nodes of one type. Every call is idempotent and short; what takes longer is asked again."""

    def check(self, implementation: Implementation) -> None:
        """Refuse what cannot be made. Raises DescriptionError with the place.

        A static method where the type needs nothing but the implementation: large descriptions are then checked in a child
        process (`apart`).
        """

    def ensure(self, wanted: WantedNode) -> None:
        """Make it be as wanted: start it, adopt it, or replace another revision. Raises NodeError."""

    def halt(self, stack: str, key: str) -> bool:
        """End it and keep what it has. True when it has ended."""

    def remove(self, stack: str, key: str) -> bool:
        """Take it away. True when nothing of it is left."""

    def observe(self, stack: str) -> Sequence[ObservedNode]:
        """Every instance of this type in the stack, as found on the platform."""

    def healthy(self, asked: Sequence[tuple[WantedNode, ObservedNode]]) -> Mapping[str, str]:
        """Carry out the health checks, all at once. Answers what is wrong by key; an empty text means healthy."""
