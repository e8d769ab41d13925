"""The contract between the cloud controller's modules and a platform, which carries out their orders.

A platform derives from `Platform` and provides what it can: `inventory` always, since disposal verifies with it that nothing of
an instance is left. Everything else is optional; orders for what is missing are rejected with an explanation.
`docs/platforms.md` has a whole platform in sixty lines.

The contract is level-triggered. The caller repeats the wanted state and gets the actual one; every call is short, may be
repeated, and may come from another process than the last. State of a stack that the platform cannot see in its own objects is
returned to the caller as a record, which the next call contains.

A factory is found by entry point (group `archelon.platforms`) and called with a `PlatformContext` and the region's settings as
keywords. The platform serves web processes, which only validate and preview, and workers, which do the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from archelon_api.dns_records import DnsRecord

from ..core.labels import Labels
from ..core.stack_health import StackHealth

Scalar = str | int | float | bool | None


class DeployError(Exception):
    """An order can never be carried out; the text gives reason and remedy, without secrets.

    Args:
        permanent: false if the same order may be accepted later, once something else has changed.
    """

    def __init__(self, text: str = "", *, permanent: bool = True) -> None:
        super().__init__(text)
        self.permanent = permanent


class UnknownNodeError(DeployError):
    """A stack has no node of this name, or not yet."""


class DelegationEndedError(DeployError):
    """The tenant's delegation has ended; the text gives the reason, and what an operator can do."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text, permanent=False)


class NeverDelegatedError(DelegationEndedError):
    """An instance has no delegation: nothing was created in its tenant's name, or its absence has been verified."""


class ProvisionError(Exception):
    """A configuration can never be carried out; the text gives reason and remedy, without secrets."""


class InventoryError(Exception):
    """Something cannot be listed or removed; the text gives the reason, without secrets."""


class _NoConfigures:
    """For a platform whose nodes are configured by the template only."""

    def validate(self, order: ConfigurationOrder) -> None:
        raise ProvisionError(
            f"a configuration of the kind {order.kind!r} cannot reach nodes here: put it into the template, as environment or "
            "as a file, and fill it with parameters; an update of the stack rolls it out"
        )

    def configure(self, order: ConfigurationOrder) -> Configured:
        self.validate(order)
        raise AssertionError("validate rejects every order")

    def remove(self, order: ConfigurationOrder) -> bool:
        return True


class _NoTargets:
    """For a platform whose nodes cannot be reached from here."""

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[ScrapeTarget]:
        return ()


class Platform:
    """A platform, opened for one region. A subclass sets what it provides, as attributes of the class or of the object.

    Attributes:
        inventory: its objects, by instance; required.
        applications: runs orchestrators; None if it cannot.
        formats: create stacks, by template format; empty if it cannot.
        configures: configures nodes.
        targets: finds nodes.
        names: sets names; None without a name server.
        watcher: follows the region; None if every object is polled.
        delegates: whether it is called in a tenant's name, so that every order for the region needs a delegation.
        isolation: how tenants' code is isolated on this machine, for users; None if none of it runs here.
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
    """Orchestrators on a platform, one per instance."""

    @property
    def poll_intervals(self) -> PollIntervals:
        """How often to poll; longer with a watcher."""

    def start(self, order: ApplicationOrder) -> ApplicationState:
        """Run it, or adopt it if it runs as ordered. Raises DeployError."""

    def stop(self, instance: str) -> bool:
        """Stop it and keep its data and log. Returns whether it has stopped; poll otherwise."""

    def restart(self, order: ApplicationOrder) -> ApplicationState:
        """Stop and start it. Raises DeployError."""

    def state(self, instance: str) -> ApplicationState | None:
        """Return its present state; None if it does not exist."""

    def remove(self, instance: str) -> bool:
        """Remove it and its log. Returns whether nothing is left; poll otherwise."""

    def read_log(self, instance: str, since: int = 0) -> Log:
        """Return output from position `since` on."""

    def remains(self, instance: str) -> Sequence[str]:
        """Return what is left of it, for messages; empty: verified absent."""


@dataclass(frozen=True)
class ApplicationOrder:
    """An orchestrator as it should run.

    Args:
        labels: the instance is the application's id.
        bundle: directory of the unpacked bundle; archive: returns the packed one; image: of a container. Platforms use what they
            support.
        command: argument list that starts it; empty uses the platform's default for a bundle or image.
        environment: its variables; may contain secrets.
        hosting: `own` for a process of its own, on a platform that lets one serve many applications.
    """

    labels: Labels
    bundle: str = ""
    archive: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)
    image: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    hosting: str = ""


@dataclass(frozen=True)
class ApplicationState:
    """An application as it is; `url` is empty while it has no address.

    Its state is `active` (running and listening), `inactive` (stopped or starting, see the message) or `error`.
    """

    state: str
    message: str = ""
    url: str = ""


@dataclass(frozen=True)
class Log:
    """A part of the output. Request `next` to follow it; `start` is later than requested if the beginning is gone.

    Positions grow with the output. Their unit (bytes, nanoseconds) is the platform's; readers only return them.
    """

    data: bytes
    start: int
    next: int


class PollIntervals(NamedTuple):
    """Seconds between two polls without a change notification: of what is in progress, and of what is steady."""

    in_progress: float
    steady: float


# stacks ----------------------------------------------------------------------------------------------------------------


class Stacks(Protocol):
    """Stacks on a platform. A subclass must define `advance` and `remains`; the other methods reject or do nothing."""

    def validate(self, order: StackOrder) -> None:
        """Reject an order that can never be carried out. Raises DeployError."""

    def preview(self, order: StackOrder, record: Mapping[str, Any] | None) -> Sequence[StackResource]:
        """Return the effects of an order: CREATE, UPDATE, REPLACE, DELETE or KEEP as `state`. Raises DeployError."""
        return ()

    def scale(
        self, order: StackOrder, node: str, *, count: int | None = None, by: int | None = None
    ) -> Mapping[str, int]:
        """Return the order's counts after scaling a node. Raises DeployError if they are out of bounds."""
        raise DeployError(f"the node {node!r} cannot be scaled; update the stack with other parameters")

    def signal(self, order: StackOrder, resource: str, data: Mapping[str, Any]) -> None:
        """Signal a resource that waits for it. Raises DeployError if none with this name waits."""
        raise DeployError(f"no resource {resource!r} of this stack waits for a signal")

    def read_log(self, order: StackOrder, node: str, since: int = 0) -> Log:
        """Return the output of a node, as the stack's resources name it, from position `since` on. Raises DeployError."""
        raise DeployError("the output of this platform's nodes cannot be read")

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """Observe, carry out the steps possible now, and report. Raises DeployError."""

    def remains(self, order: StackOrder) -> Sequence[str]:
        """Return what is left of the stack, for messages; empty: verified absent."""


@dataclass(frozen=True)
class StackOrder:
    """A stack as it should be.

    Args:
        id: permanent id, in the labels of the platform's objects.
        template, files: the text and the files of the bundle, by path.
        source: the template's own path. environments: paths of Heat's environments among the files.
        parameters: may contain secrets; secrets: the names of those.
        counts: instances by node, if they differ from the template's.
        presence: `present`, `suspended` or `absent`.
        rollback: whether a failed create is undone.
        version: incremented by each order; a repeated order retries what failed.
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
        name: in its template; in a nested stack, including the path to it.
        type: in the platform's terms; kind: OCCI's (`compute`, `network` or `storage`), or empty.
        id: of the platform. state: in the platform's terms.
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
        record: JSON that the caller stores and passes with the next call.
        state: in Heat's terms, such as `CREATE_IN_PROGRESS`; reason: for users.
        outputs, resources: None if they were not read; they are then unchanged.
        id: the platform's own name of the stack, if any.
        again: seconds until the next call; None: nothing changes by itself.
        health: None if the platform knows no more than the state.
    """

    record: Mapping[str, Any]
    state: str
    reason: str
    outputs: Mapping[str, Any] | None = field(default_factory=dict, repr=False)
    resources: Sequence[StackResource] | None = ()
    again: float | None = None
    id: str = ""
    health: StackHealth | None = None


# nodes -----------------------------------------------------------------------------------------------------------------


class Configures(Protocol):
    """Configures nodes on a platform."""

    def validate(self, order: ConfigurationOrder) -> None:
        """Reject an order that can never be carried out. Raises ProvisionError."""

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Configure every instance of the node; must be idempotent. Raises ProvisionError."""

    def remove(self, order: ConfigurationOrder) -> bool:
        """Remove the platform's data, not the nodes. Returns whether nothing is left; poll otherwise. Raises ProvisionError."""


@dataclass(frozen=True)
class ConfigurationOrder:
    """How a node should be configured.

    Args:
        id: of the configuration. stack: id of the stack. node: name in its template, for all its instances.
        kind: `process`, `cloud-init`, `ssh` or `software-config`.
        content: in the kind's format; may contain secrets.
        attempt: counts the orders; a repeated order retries what failed.
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
    """The result: `waiting` (no node to configure yet), `done` or `failed`, and the output."""

    state: str
    result: str


class Targets(Protocol):
    """Finds nodes on a platform."""

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[ScrapeTarget]:
        """Return the running instances of a node of a stack (its id); `port` names one of its ports; empty: the first."""


@dataclass(frozen=True)
class ScrapeTarget:
    """One instance of a node, and where it listens; `key` is its name in messages.

    With `loopback` the platform runs it on this machine, so its address may be a loopback address; no other target's may.
    """

    key: str
    host: str
    port: int
    loopback: bool = False


# names -----------------------------------------------------------------------------------------------------------------


class Names(Protocol):
    """Sets names at a platform's name server. Records are tagged with the instance that set them.

    Calls are level-triggered, short and repeatable. Any other exception means that the name server is unavailable; retry.
    """

    def validate(self, order: NameOrder) -> None:
        """Reject a record that can never be set, without a call to the server. Raises ProvisionError."""

    def put(self, order: NameOrder) -> Named:
        """Set the record, replacing others of its type and name. Raises ProvisionError: unknown zone, or another owner."""

    def remove(self, order: NameOrder) -> bool:
        """Remove the record, if it is this instance's. Returns whether it is gone; poll otherwise. Raises ProvisionError."""


@dataclass(frozen=True)
class NameOrder:
    """A DNS record as it should be, and its owner."""

    labels: Labels
    record: DnsRecord


@dataclass(frozen=True)
class Named:
    """The state of a record: `waiting` or `active`; message: the reason for waiting."""

    state: str
    message: str = ""


# inventory ------------------------------------------------------------------------------------------------------------


class Inventory(Protocol):
    """A platform's objects, by the labels that each carries."""

    def instances(self, installation: str) -> Mapping[str, float]:
        """Return every instance with an object of an installation, and its youngest object's age in seconds."""

    def objects(self, instance: str) -> Sequence[str]:
        """Return the objects of an instance, by names that stay the same. Raises InventoryError if they cannot be listed."""

    def remove(self, instance: str) -> bool:
        """Remove all of them, dependents first. Returns whether they are gone; poll otherwise. Raises InventoryError."""

    def remains(self, instance: str) -> Sequence[str]:
        """Return what is left, for messages; empty: verified absent. Raises InventoryError if it cannot be listed."""


class Watcher(Protocol):
    """Follows a region, so that its objects need not be polled individually. Only one worker calls it."""

    def follow(self, changed: Changed) -> float:
        """Report changes since the last call (at first: possible ones); return the seconds until the next call.

        It may continue to report from a thread of its own until somewhat after the next call is due. Excess reports are
        harmless; a missing report must only cost time.
        """


@dataclass(frozen=True)
class Change:
    """A changed stack (by the id of its order) or application (by its instance)."""

    kind: Literal["stack", "application"]
    id: str


Changed = Callable[[Change], None]


# context of a platform -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlatformContext:
    """The environment of a platform in a region.

    The directory is for its data on this machine, created when it is needed; `tokens` are for calls in a tenant's name.
    """

    region: str
    directory: Path
    tokens: PlatformTokens = field(default_factory=lambda: NoTokens())
    stacks: StackIndex = field(default_factory=lambda: NoStacks())


class PlatformTokens(Protocol):
    """Tokens of the platform's own identity service, for calls in a tenant's name. Thread-safe."""

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        """Return a token for the tenant of an instance, from its delegation; cached until shortly before expiry.

        Args:
            labels: of the object of the call: instance and tenant.
            fresh: ignore the cache, because the last token was rejected.

        Raises:
            DelegationEndedError: the delegation is revoked or lost; NeverDelegatedError: there is none.
            occi_service.client.ClientError: design is unavailable.
        """


class StackIndex(Protocol):
    """The stacks that were ordered for a region, so that its platform can poll many at once. Thread-safe."""

    def moving(self) -> Sequence[KnownStack]:
        """Return the stacks in progress: those whose platform set `moving` in their record."""

    def all(self) -> Sequence[KnownStack]:
        """Return every stack."""

    def labels(self, instance: str) -> Labels | None:
        """Return the labels of an instance; None if it has no object here."""


@dataclass(frozen=True)
class KnownStack:
    """A stack that was ordered: the id of its order, its labels, and its platform's record."""

    id: str
    labels: Labels
    record: Mapping[str, Any] = field(repr=False)


class NoTokens:
    """For a cloud controller whose platforms need none."""

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        raise DelegationEndedError("this cloud controller has no delegations; configure its identity service")


class NoStacks:
    """For a platform without orders."""

    def moving(self) -> Sequence[KnownStack]:
        return ()

    def all(self) -> Sequence[KnownStack]:
        return ()

    def labels(self, instance: str) -> Labels | None:
        return None
