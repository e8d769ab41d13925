"""The model of a manifest: a service, its dependencies, its attributes and its actions.

Hurtle's manifest is a subset. The field names here are Python's; docs/manifest.md has the table of the names on disk. Everything
is frozen: a manifest belongs to a bundle's digest and never changes. `bundles.manifest_reading` creates it from text.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from archelon_core.documents.problems import Path, Problem, json_path
from archelon_core.documents.tree import Json, Node, locate, plain

from .values import Pattern, ValueType, misfit

#: Prefixes of the attributes that the platform sets on every instance.
RESERVED_PREFIXES = ("occi.", "org.archelon.", "mcn.service.state")


class Mutability(enum.StrEnum):
    """Who may write an attribute, in Hurtle's terms."""

    IMMUTABLE = "immutable"  # the provider only
    REQUIRED = "required"  # the tenant, who must set it at creation and may change it
    MUTABLE = "mutable"  # the tenant, at any time
    OPTIONAL = ""  # the same; Hurtle's manifests use both


class Phase(enum.StrEnum):
    """The phases of an instance's life that can have their own parameters, retries and timeouts."""

    INITIALISE = "initialise"
    ACTIVATE = "activate"
    DEPLOY = "deploy"
    PROVISION = "provision"
    UPDATE = "update"
    STOP = "stop"
    START = "start"
    DESTROY = "destroy"


class OnFailedCreate(enum.StrEnum):
    """What happens to the resources of an instance whose creation failed."""

    KEEP = "keep"  # for inspection and a retry
    ROLLBACK = "rollback"  # they are removed; the instance stays, as failed


class Hosting(enum.StrEnum):
    """Where the orchestrator of an instance runs."""

    ANY = ""  # wherever the platform of its region runs it, perhaps in a process that serves many instances
    OWN = "own"  # in a process or container of its own


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of the service's kind, or of one of its actions.

    Args:
        name: as on the wire.
        mutability: who may write it.
        type: OCCI's type.
        default: applied if the tenant sets no value; None for no default.
        pattern: what values must match.
        secret: encrypted at rest and shown to its owner only.
        description: for people.
    """

    name: str
    mutability: Mutability = Mutability.OPTIONAL
    type: ValueType = ValueType.STRING
    default: Json = None
    pattern: Pattern | None = None
    secret: bool = False
    description: str = ""

    @property
    def required(self) -> bool:
        """Whether the tenant must set it at creation."""
        return self.mutability is Mutability.REQUIRED

    @property
    def writable(self) -> bool:
        """Whether the tenant may set and change it."""
        return self.mutability is not Mutability.IMMUTABLE

    def misfit(self, value: Json) -> str | None:
        """Why the value does not fit, without repeating it, or None if it fits."""
        return misfit(value, self.type, self.pattern)


@dataclass(frozen=True, slots=True)
class Input:
    """A supplier's attribute that is written to the dependent once the supplier is up.

    Args:
        supplier: type of the supplier, which is also in `depends_on`.
        attribute: the supplier's attribute.
        target: the dependent's attribute; in Hurtle's form the same name.
    """

    supplier: str
    attribute: str
    target: str


class Binding(NamedTuple):
    """An existing instance to use instead of a new one. Exactly one of the two is set.

    Args:
        id: the instance's id or URL, the same for every tenant.
        parameter: the attribute in which a tenant names it. If the tenant omits an optional one, an instance is created.
    """

    id: str | None
    parameter: str | None


@dataclass(frozen=True, slots=True)
class Dependency:
    """Another service that the orchestrator uses for the tenant.

    Args:
        type: its type.
        inputs: attributes that it gets from other suppliers.
        attributes: its attributes at creation; a leaf may be `${name}`, an attribute of this service.
        binding: use an existing instance; None to create one.
        region: where to create it; None for this instance's region.
    """

    type: str
    inputs: tuple[Input, ...] = ()
    attributes: Mapping[str, Json] = field(default_factory=dict, repr=False)
    binding: Binding | None = None
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Templates:
    """The templates of one format, as paths inside the bundle.

    Args:
        deployment: creates the resources.
        provision: an update of it that configures; None if nothing is added.
        environments: Heat's environments for both, later ones over earlier ones.
    """

    deployment: str
    provision: str | None = None
    environments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """What is deployed to one region.

    Args:
        region: its name.
        format: of the templates; None for the format of the region's platform.
        templates: of this region; None for the service's own (`Manifest.templates`).
        parameters: for this region's templates; they override the tenant's attributes of the same name.
    """

    region: str
    format: str | None = None
    templates: Templates | None = None
    parameters: Mapping[str, Json] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class InternalParameter:
    """The provider's parameter for a phase, which the orchestrator gets and a tenant never sees."""

    name: str
    type: ValueType
    value: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class PhasePolicy:
    """The timeout and retry policy of a phase.

    Args:
        timeout: seconds until an attempt counts as failed; None for the service manager's default.
        retries: attempts after the first; None for the service manager's default.
    """

    timeout: float | None = None
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """An OCCI action of the service's kind; the orchestrator handles it in `on_action`."""

    term: str
    title: str = ""
    description: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits that an operator can change for a tenant. None: no limit in the manifest.

    Args:
        instances: concurrent instances of this service, for one tenant.
    """

    instances: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The document of a manifest, by which later checks find the line."""

    file: str
    root: Node

    def problem(self, path: Path, message: str, remedy: str, *, key: bool = False) -> Problem:
        """A problem at a path of the document.

        Args:
            path: keys and indices from the root.
            message: what is wrong.
            remedy: what to do.
            key: locate the last key, not its value.
        """
        mark = locate(self.root, path, key=key)
        return Problem(self.file, mark.line, mark.column, json_path(path), message, remedy)

    def document(self) -> Json:
        """The document as plain values, as it was read."""
        return plain(self.root)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest.

    Args:
        type: scheme, `#` and term: the type identifier of its OCCI kind.
        title: a name for people.
        description: for people.
        version: the provider's own, any text.
        icon: path of an image in the bundle.
        endpoint: URL of Hurtle's service manager; None to derive it.
        attributes: of the kind, by name.
        actions: of the kind, by term.
        dependencies: other services, in the order of the file.
        resources: by region; empty if every region uses `templates`.
        templates: by format.
        internal: the provider's parameters by phase.
        internal_file: file in the bundle with these parameters instead.
        phases: retries and timeouts by phase.
        on_failed_create: keep or roll back.
        image: the orchestrator's container image, instead of code in the bundle.
        hosting: where the orchestrator runs.
        quotas: default limits.
        extensions: keys beginning with `x-`, for other programs.
        source: the document; ignored in comparisons.
    """

    type: str
    source: Source = field(compare=False, repr=False)
    title: str = ""
    description: str = ""
    version: str = ""
    icon: str | None = None
    endpoint: str | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    actions: Mapping[str, Action] = field(default_factory=dict)
    dependencies: tuple[Dependency, ...] = ()
    resources: Mapping[str, Resources] = field(default_factory=dict)
    templates: Mapping[str, Templates] = field(default_factory=dict)
    internal: Mapping[Phase, tuple[InternalParameter, ...]] = field(default_factory=dict)
    internal_file: str | None = None
    phases: Mapping[Phase, PhasePolicy] = field(default_factory=dict)
    on_failed_create: OnFailedCreate = OnFailedCreate.KEEP
    image: str | None = None
    hosting: Hosting = Hosting.ANY
    quotas: Quotas = Quotas()
    extensions: Mapping[str, Json] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        """The kind's scheme, including `#`."""
        return self.type[: self.type.rindex("#") + 1]

    @property
    def term(self) -> str:
        """The kind's term; its location is `/<term>/`."""
        return self.type[self.type.rindex("#") + 1 :]
