"""What a platform is: the contract between the cloud controller's modules and what carries their orders out.

`Platform` is the whole of it. A platform derives from it and gives what it can: `inventory` always, since disposal verifies by
it that nothing of an instance is left; everything else is optional, and orders for what is not there are refused with a text
that says so. `docs/platforms.md` has a whole platform in sixty lines.

Everything here is level-triggered. The caller says what should be, again and again, and is told how it is; every call is short,
may be repeated, and may be made by another process than the last. What a platform must remember of a stack, and cannot see on the
platform itself, it hands to the caller as a record and gets back with the next call.

A factory is found by entry point (group `archelon.platforms`) and called with a `PlatformContext` and the region's settings as
keywords. What it gives serves web processes, which only validate and preview, and workers, which do the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from archelon_api.dns_records import DnsRecord

from ..core.labels import Labels

__all__ = [
    "ApplicationOrder",
    "ApplicationState",
    "Applications",
    "Change",
    "Changed",
    "ConfigurationOrder",
    "Configured",
    "Configures",
    "DelegationEndedError",
    "DeployError",
    "Inventory",
    "InventoryError",
    "KnownStack",
    "Log",
    "NameOrder",
    "Named",
    "Names",
    "NeverDelegatedError",
    "NoStacks",
    "NoTokens",
    "Platform",
    "PlatformContext",
    "PlatformTokens",
    "PollIntervals",
    "Progress",
    "ProvisionError",
    "StackIndex",
    "StackOrder",
    "StackResource",
    "Stacks",
    "Target",
    "Targets",
    "Watcher",
]

Scalar = str | int | float | bool | None


class DeployError(Exception):
    """An order cannot be carried out, whoever repeats it; the text says why and what to do, and holds no secret."""


class DelegationEndedError(DeployError):
    """Nobody acts for the tenant any more; the text says why, and what an operator can do."""


class NeverDelegatedError(DelegationEndedError):
    """An instance has no delegation: nothing can have been made in its tenant's name, or its absence has been verified."""


class ProvisionError(Exception):
    """A configuration can never be carried out; the text says why and what to do, and holds no secret."""


class InventoryError(Exception):
    """Something cannot be removed; the text says what is in the way, and holds no secret."""


class _NoConfigures:
    """Of a platform whose nodes take their configuration from the template alone."""

    def validate(self, order: ConfigurationOrder) -> None:
        raise ProvisionError(
            f"a configuration of the kind {order.kind!r} cannot reach nodes here: put it into the template, as environment or "
            "as a file, and fill it with parameters; an update of the stack rolls it out"
        )

    def configure(self, order: ConfigurationOrder) -> Configured:
        self.validate(order)
        raise AssertionError("validate refuses everything")

    def remove(self, order: ConfigurationOrder) -> bool:
        return True


class _NoTargets:
    """Of a platform whose nodes are not reached from here."""

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[Target]:
        return ()


class Platform:
    """A platform, opened for one region. A derived class sets what it has, as attributes of the class or of the object.

    Attributes:
        inventory: what it has, by instance. The one part that every platform gives.
        applications: runs orchestrators; None where it cannot.
        formats: makes stacks, by the format of their templates; none where it is empty.
        configures: configures nodes.
        targets: finds nodes.
        names: keeps names; None where it has no name server.
        watcher: follows the region; None where every object is polled.
        delegates: whether it is called in a tenant's name, so that every order for the region needs a delegation.
        isolation: what keeps tenants' code apart on this machine, for people; None where none of it runs here.
    """

    inventory: Inventory
    applications: Applications | None = None
    formats: Mapping[str, Stacks] = MappingProxyType({})
    configures: Configures = _NoConfigures()
    targets: Targets = _NoTargets()
    names: Names | None = None
    watcher: Watcher | None = None
    delegates: bool = False
    isolation: str | None = None


# applications ----------------------------------------------------------------------------------------------------------


class Applications(Protocol):
    """Orchestrators on a platform, one an instance."""

    @property
    def pace(self) -> PollIntervals:
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


@dataclass(frozen=True)
class Log:
    """A piece of output: ask for `next` to follow it; `start` is later than asked for where the beginning is gone.

    Positions grow with the output. What they count (bytes, moments) is the platform's; a reader only gives them back.
    """

    data: bytes
    start: int
    next: int


class PollIntervals(NamedTuple):
    """Seconds between two looks where nothing is told in between: at what is under way, and at what stands."""

    under_way: float
    standing: float


# stacks ----------------------------------------------------------------------------------------------------------------


class Stacks(Protocol):
    """Stacks on a platform. A class that derives from it needs `advance` and `remains`; the rest refuses or does nothing."""

    def validate(self, order: StackOrder) -> None:
        """Refuse what can never be made. Raises DeployError."""

    def preview(self, order: StackOrder, record: Mapping[str, Any] | None) -> Sequence[StackResource]:
        """What carrying the order out would do; `state` is CREATE, UPDATE, REPLACE, DELETE or KEEP. Changes nothing.

        Raises:
            DeployError: the order can never be carried out.
        """
        return ()

    def scale(
        self, order: StackOrder, node: str, *, count: int | None = None, by: int | None = None
    ) -> Mapping[str, int]:
        """The order's counts after scaling a node. Raises DeployError where they leave its bounds."""
        raise DeployError(f"the node {node!r} cannot be scaled; update the stack with other parameters")

    def signal(self, order: StackOrder, resource: str, data: Mapping[str, Any]) -> None:
        """Tell a resource that what it waits for has happened. Raises DeployError where nothing waits under this name."""
        raise DeployError(f"no resource {resource!r} of this stack waits for a signal")

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """Look, take the steps that are possible now, and tell. Raises DeployError."""

    def remains(self, order: StackOrder) -> Sequence[str]:
        """What the platform still has of the stack, in words; empty: verified absent."""


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


# nodes -----------------------------------------------------------------------------------------------------------------


class Configures(Protocol):
    """Configures nodes on a platform."""

    def validate(self, order: ConfigurationOrder) -> None:
        """Refuse what can never be carried out. Raises ProvisionError."""

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Carry it out on every instance of the node; repeating it must be harmless. Raises ProvisionError."""

    def remove(self, order: ConfigurationOrder) -> bool:
        """Remove what the platform keeps of it; nodes stay as they are. True when nothing is left; False: ask again.

        Raises:
            ProvisionError: something is in the way.
        """


@dataclass(frozen=True)
class ConfigurationOrder:
    """How a node should be configured.

    Args:
        id: names it. stack: id of the stack. node: name in its template; all its instances are meant.
        kind: `process`, `cloud-init`, `ssh` or `software-config`.
        content: as the kind has it; may hold secrets.
        attempt: counts the times that it was to be carried out; what failed is tried again when it is ordered again.
    """

    id: str
    instance: str
    stack: str
    node: str
    kind: str
    content: Mapping[str, Any] = field(repr=False)
    attempt: int = 1


@dataclass(frozen=True)
class Configured:
    """What came of it: `waiting` (no node to configure yet), `done` or `failed`, and what was printed."""

    state: str
    result: str


class Targets(Protocol):
    """Finds nodes on a platform."""

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[Target]:
        """The running instances of a node of a stack (its id); `port` names one of its ports, or is empty for the first."""


@dataclass(frozen=True)
class Target:
    """One instance of a node, and where it listens.

    Args:
        key: names it in messages.
        host: its address.
        port: its port.
        loopback: the platform runs it on this machine, so its address may be one that leads back here; no other's is asked there.
    """

    key: str
    host: str
    port: int
    loopback: bool = False


# names -----------------------------------------------------------------------------------------------------------------


class Names(Protocol):
    """Keeps names at a platform's name server. Records carry the mark of the instance that set them.

    Both are level-triggered and short, and may be repeated. Whatever else they raise: the name server is away, ask again.
    """

    def validate(self, order: NameOrder) -> None:
        """Refuse what can never be set; asks nobody. Raises ProvisionError."""

    def put(self, order: NameOrder) -> Named:
        """Set the record: this value and no other of the type at the name.

        Raises:
            ProvisionError: it cannot be: there is no such zone, or the name is another's.
        """

    def remove(self, order: NameOrder) -> bool:
        """Take it away, where it is this instance's. True when it is gone; False: ask again. Raises ProvisionError."""


@dataclass(frozen=True)
class NameOrder:
    """A record of DNS as it should be, and whose it is."""

    labels: Labels
    record: DnsRecord


@dataclass(frozen=True)
class Named:
    """How far it is: `waiting` or `active`; message: what it waits for."""

    state: str
    message: str = ""


# what there is ---------------------------------------------------------------------------------------------------------


class Inventory(Protocol):
    """What a platform has, by the labels that every object made on it carries."""

    def instances(self, installation: str) -> Mapping[str, float]:
        """Every instance that something of an installation carries the label of, with its youngest object's age in seconds."""

    def objects(self, instance: str) -> Sequence[str]:
        """What there is of an instance, each by a name that stays the same from look to look.

        Raises:
            InventoryError: nobody can tell; the text says why.
        """

    def remove(self, instance: str) -> bool:
        """Take all of it away, what needs others first. True when it is gone; False: ask again.

        Raises:
            InventoryError: something is in the way; the text says what.
        """

    def remains(self, instance: str) -> Sequence[str]:
        """What is left, in words; empty: verified absent. Raises InventoryError where nobody can tell."""


class Watcher(Protocol):
    """Follows a region, so that nobody has to look at each of its objects. One worker of all calls it."""

    def follow(self, changed: Changed) -> float:
        """Tell what has changed since the last call (at the first: what may have), and the seconds until the next.

        May go on telling from a thread of its own, for as long as it is called again in time and a little longer. Telling too
        much is harmless; that nothing is told must not stop anything for good.
        """


@dataclass(frozen=True)
class Change:
    """Something has changed: a stack (by the id of its order) or an application (by its instance)."""

    kind: Literal["stack", "application"]
    id: str


Changed = Callable[[Change], None]


# what a platform is given ----------------------------------------------------------------------------------------------


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
    tokens: PlatformTokens = field(default_factory=lambda: NoTokens())
    stacks: StackIndex = field(default_factory=lambda: NoStacks())


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


class StackIndex(Protocol):
    """What was ordered for a region, so that its platform can ask for many at once. Thread-safe."""

    def moving(self) -> Sequence[KnownStack]:
        """The stacks that something is being done to: those whose platform put `moving` into their record."""

    def all(self) -> Sequence[KnownStack]:
        """Every stack."""

    def labels(self, instance: str) -> Labels | None:
        """Whose an instance is; None where nothing here is of it."""


@dataclass(frozen=True)
class KnownStack:
    """A stack that was ordered: the id of its order, whose it is, and what its platform remembers of it."""

    id: str
    labels: Labels
    record: Mapping[str, Any] = field(repr=False)


class NoTokens:
    """Of a cloud controller whose platforms need none."""

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        raise DelegationEndedError("this cloud controller has no delegations; configure its identity service")


class NoStacks:
    """Of a platform that nothing was ordered from."""

    def moving(self) -> Sequence[KnownStack]:
        return ()

    def all(self) -> Sequence[KnownStack]:
        return ()

    def labels(self, instance: str) -> Labels | None:
        return None
