"""An infrastructure as described: nodes, their implementations and dependencies. Values only; `parsing` creates them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .graph import Graph, before, ordered
from .rendering import Place, RenderedItem, Scalar, Value


@dataclass(frozen=True)
class Parameter:
    """A value that the tenant gives with an order. `secret` ones are never shown."""

    name: str
    place: Place
    type: str = "string"
    default: Scalar = None
    description: str = ""
    secret: bool = False
    allowed: tuple[Scalar, ...] = ()
    pattern: str = ""
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Health:
    """The conditions for a node to be healthy; all must hold. Leaves may contain references.

    Args:
        ping: the node responds at all.
        ports: names or numbers of ports that accept a connection.
        urls: respond with a status of 200 to 399.
        mysqldbs: `{name, user, pass}` of databases.
        commands: argument lists that exit with 0.
        timeout: seconds of continuous failure after which the node is failed (Occopus' default).
        interval: seconds between two checks; a node that is starting is checked more often.
        min_uptime: seconds that a node without checks has to run before it is healthy.
    """

    ping: bool = True
    ports: tuple[Scalar, ...] = ()
    urls: tuple[str, ...] = ()
    mysqldbs: tuple[Mapping[str, Scalar], ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    timeout: float = 600.0
    interval: float = 5.0
    min_uptime: float = 2.0

    @property
    def checks(self) -> bool:
        """Whether anything is checked beside that the node runs."""
        return bool(self.ports or self.urls or self.mysqldbs or self.commands)


@dataclass(frozen=True)
class Implementation:
    """One way to create a node: resource and contextualisation, interpreted by the resource type."""

    type: str
    resource: RenderedItem
    contextualisation: RenderedItem | None
    config_management: RenderedItem | None
    health: Health
    health_check: RenderedItem | None
    place: Place


@dataclass(frozen=True)
class Mapped:
    """An attribute that a dependent gets from its dependency: `nodes.<source>.<attribute>` becomes `mapped.<name>`."""

    source: str
    attribute: str
    name: str


@dataclass(frozen=True)
class Node:
    """One node, in `minimum` to `maximum` instances."""

    name: str
    type: str
    implementation: Implementation
    place: Place
    minimum: int = 1
    maximum: int = 1
    variables: Mapping[str, Scalar] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    mappings: tuple[Mapped, ...] = ()


@dataclass(frozen=True)
class Output:
    """A value returned from the finished stack."""

    name: str
    value: Value
    description: str = ""
    secret: bool = False


@dataclass(frozen=True)
class Description:
    """A whole infrastructure, checked: references resolve, dependencies have no cycle, types and filters exist."""

    name: str
    nodes: Mapping[str, Node]
    parameters: Mapping[str, Parameter]
    outputs: Mapping[str, Output]

    @property
    def graph(self) -> Graph:
        """The nodes' dependencies."""
        return {name: node.needs for name, node in self.nodes.items()}

    def order(self) -> list[str]:
        """Return the node names in dependency order."""
        return ordered(self.graph)

    def before(self, name: str) -> frozenset[str]:
        """Return all dependencies of a node, direct and indirect."""
        return before(self.graph, name)
