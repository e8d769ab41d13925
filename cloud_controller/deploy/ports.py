"""What the deploy module needs of a platform: applications and stacks.

Both are level-triggered. The caller says what should be, again and again, and is told how it is; every call is short, may be
repeated, and may be made by another process than the last. What a platform must remember of a stack, and cannot see on the
platform itself, it hands to the caller as a record and gets back with the next call.

Platforms, template formats and node resources are found by entry point (`load`), so someone else's is a package, not a patch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..core.labels import Labels

__all__ = [
    "FORMATS",
    "NODE_RESOURCES",
    "PLATFORMS",
    "ApplicationOrder",
    "ApplicationState",
    "Applications",
    "DeployError",
    "Log",
    "Pace",
    "Progress",
    "StackOrder",
    "StackResource",
    "Stacks",
    "loaded",
    "node_resources",
    "offered",
]

#: Entry point groups.
PLATFORMS = "archelon.platforms"
FORMATS = "archelon.template_formats"
NODE_RESOURCES = "archelon.node_resources"

Scalar = str | int | float | bool | None


class DeployError(Exception):
    """An order cannot be carried out, whoever repeats it; the text says why and what to do, and holds no secret."""


@dataclass(frozen=True)
class ApplicationOrder:
    """An orchestrator as it should run.

    Args:
        labels: the instance is the application's id.
        bundle: directory of the unpacked bundle, `archive`: gives the packed one, `image`: a container's; platforms take what
            they can.
        command: argument list that starts it; empty takes the platform's own way of running a bundle or image.
        environment: what it sees; may hold secrets.
    """

    labels: Labels
    bundle: str = ""
    archive: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)
    image: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ApplicationState:
    """An application as it is.

    Args:
        state: `active` (runs and listens), `inactive` (stopped, or on its way up: the message says so) or `error`.
        url: where it listens; empty while it has no address.
    """

    state: str
    message: str = ""
    url: str = ""


class Pace(NamedTuple):
    """Seconds between two looks where nothing is told in between: at what is under way, and at what stands."""

    under_way: float
    standing: float


@dataclass(frozen=True)
class Log:
    """A piece of output: ask for `next` to follow it; `start` is later than asked for where the beginning is gone.

    Positions grow with the output. What they count (bytes, moments) is the platform's; a reader only gives them back.
    """

    data: bytes
    start: int
    next: int


class Applications(Protocol):
    """Orchestrators on a platform, one an instance."""

    @property
    def pace(self) -> Pace:
        """How often to look: seldom, where a watcher tells."""

    def start(self, order: ApplicationOrder) -> ApplicationState:
        """Make it run; what already does, as ordered, is adopted. Raises DeployError."""

    def stop(self, instance: str) -> bool:
        """End it and keep its place and log. True when it has ended; False: ask again."""

    def restart(self, order: ApplicationOrder) -> ApplicationState:
        """End it and start it. Raises DeployError."""

    def state(self, instance: str) -> ApplicationState | None:
        """As it is now; None where there is none."""

    def remove(self, instance: str) -> bool:
        """Take it away with its log. True when nothing is left; False: ask again."""

    def read_log(self, instance: str, since: int = 0) -> Log:
        """Output from position `since` on."""

    def remains(self, instance: str) -> Sequence[str]:
        """What the platform still has of it, in words; empty: verified absent."""


@dataclass(frozen=True)
class StackOrder:
    """A stack as it should be.

    Args:
        id: names it for ever; the platform's objects carry it.
        template, files: the text and what comes along, by path in the bundle.
        source: the template's own path there. environments: paths of Heat's environments among the files.
        parameters: may hold secrets; secrets: the names of those that do.
        counts: instances by node, where they differ from the template's.
        presence: `present`, `suspended` or `absent`.
        rollback: whether a failed create is undone.
        version: counts what was ordered; what failed is tried again when it is ordered again.
    """

    id: str
    name: str
    labels: Labels
    template: str = field(repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    parameters: Mapping[str, Scalar] = field(default_factory=dict, repr=False)
    counts: Mapping[str, int] = field(default_factory=dict)
    presence: str = "present"
    rollback: bool = True
    source: str = ""
    environments: tuple[str, ...] = ()
    secrets: frozenset[str] = frozenset()
    version: int = 0


@dataclass(frozen=True)
class StackResource:
    """One virtual resource of a stack.

    Args:
        name: in its template; of one in a nested stack, the way down to it.
        type: the platform's own word; kind: OCCI's (`compute`, `network` or `storage`), empty where it is none of these.
        id: the platform's own. state: in the platform's words.
    """

    name: str
    type: str
    id: str
    state: str
    kind: str = ""


@dataclass(frozen=True)
class Progress:
    """A stack as it is.

    Args:
        record: JSON that the caller keeps and gives back with the next call.
        state: Heat's words, such as `CREATE_IN_PROGRESS`; reason: why, for people.
        outputs, resources: None where they were not looked at; they are then as they were.
        id: the platform's own name for the stack, where it has one.
        again: seconds after which to call again; None: nothing changes by itself.
    """

    record: Mapping[str, Any]
    state: str
    reason: str
    outputs: Mapping[str, Any] | None = field(default_factory=dict, repr=False)
    resources: Sequence[StackResource] | None = ()
    again: float | None = None
    id: str = ""


class Stacks(Protocol):
    """Stacks on a platform."""

    def validate(self, order: StackOrder) -> None:
        """Refuse what can never be made. Raises DeployError."""

    def preview(self, order: StackOrder, record: Mapping[str, Any] | None) -> Sequence[StackResource]:
        """What carrying the order out would do; `state` is CREATE, UPDATE, REPLACE, DELETE or KEEP. Changes nothing.

        Raises:
            DeployError: the order can never be carried out.
        """

    def scale(
        self, order: StackOrder, node: str, *, count: int | None = None, by: int | None = None
    ) -> Mapping[str, int]:
        """The order's counts after scaling a node. Raises DeployError where they leave its bounds."""

    def signal(self, order: StackOrder, resource: str, data: Mapping[str, Any]) -> None:
        """Tell a resource that what it waits for has happened. Raises DeployError where nothing waits under this name."""

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """Look, take the steps that are possible now, and tell. Raises DeployError."""

    def remains(self, order: StackOrder) -> Sequence[str]:
        """What the platform still has of the stack, in words; empty: verified absent."""


def node_resources(platform: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """What makes nodes on a platform, by the resource's type: its own, and what other packages offer.

    Each is called with what that platform makes nodes with. An offered one says whose it is by an attribute `platform`; one
    without it is the local platform's.

    Raises:
        DeployError: a package offers a type under a name of the platform's own; or see `offered` and `loaded`.
    """
    found = dict(own)
    for name, entry in offered(NODE_RESOURCES).items():
        factory = loaded(entry)
        if getattr(factory, "platform", "local") != platform:
            continue
        if name in own:
            raise DeployError(
                f"the platform {platform} has {name!r} itself; remove the package that offers {entry.value}"
            )
        found[name] = factory
    return found


def offered(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of a group, by name; none is imported yet, since what it needs may be an extra that nobody asked for.

    Raises:
        DeployError: two packages offer the same name.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=group):
        if entry.name in found:
            raise DeployError(f"two packages offer {entry.name!r} in {group}; remove one of them")
        found[entry.name] = entry
    return found


def loaded(entry: importlib.metadata.EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        DeployError: it cannot be imported; the text names the extra to install, where its package has one of this name.
    """
    try:
        return entry.load()
    except ImportError as problem:
        remedy = "repair or remove its package"
        if entry.dist is not None and entry.name in (entry.dist.metadata.get_all("Provides-Extra") or ()):
            remedy = f"install {entry.dist.name}[{entry.name}]"
        raise DeployError(f"{entry.name!r} in {entry.group} cannot be imported: {problem}; {remedy}") from problem
