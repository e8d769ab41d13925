"""Resource types that nodes are made of: a platform's own and those found by entry point.

A description names a type (`resource: {type: process}`). A package provides another type under the entry point group
`archelon.node_resources`, so servers, containers and pods are added without a change here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bundles.infrastructure.rendering import Scalar, Value

from ..core.labels import Labels

if TYPE_CHECKING:
    from bundles.infrastructure.description import Health, Implementation


class NodeError(Exception):
    """A node cannot be created or removed; the text gives the reason, without secrets."""


class Condition(enum.Enum):
    """The condition of an instance of a node, for planning."""

    PENDING = "pending"  #: exists in part, but was never started, or is starting
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"  #: stopped on request
    FAILED = "failed"  #: ended by itself, or is lost


@dataclass(frozen=True)
class WantedNode:
    """One instance of a node as it should be.

    Args:
        key: unique among all instances of the stack, such as `web.0`.
        revision: digest of everything whose change requires a replacement.
        properties: resource and contextualisation as described, including references.
        values: of the references, except `self.…`, which is known when the resource is created. The type substitutes both in one
            pass, with `rendering.substitute`.
        needs: names of the nodes it depends on; stored with it, so that it can be removed in order without the description.
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
        attributes: `address`, `port`, `ports.<name>`, `id`, `name` and the type's own.
        healthy: result of the health check; None if it was not run.
        since: when it entered its condition, in seconds since the epoch.
        message: the reason, for users.
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
    """Creates, finds and removes nodes of one type. Every call is idempotent and short; the caller polls longer operations."""

    def check(self, implementation: Implementation) -> None:
        """Reject an invalid implementation. Raises DescriptionError with the place.

        Make it a static method if the type needs only the implementation: large descriptions are then checked in a child process
        (`apart`).
        """

    def ensure(self, wanted: WantedNode) -> None:
        """Bring it into the wanted state: start it, adopt it, or replace another revision. Raises NodeError."""

    def halt(self, stack: str, key: str) -> bool:
        """Stop it and keep its data. Returns whether it has stopped."""

    def remove(self, stack: str, key: str) -> bool:
        """Remove it. Returns whether nothing is left."""

    def observe(self, stack: str) -> Sequence[ObservedNode]:
        """Return every instance of this type in the stack, as found on the platform."""

    def healthy(self, asked: Sequence[tuple[WantedNode, ObservedNode]], wait: float = 0.0) -> Mapping[str, str]:
        """Run the health checks concurrently. Returns what is wrong by key; an empty text means healthy.

        Args:
            wait: seconds that may be spent on waiting for nodes that have just been started.
        """
