"""The manifest as values: what a service is, what it needs, what a tenant may set and ask of it.

Hurtle's manifest is a subset. The field names here are Python's; docs/manifest.md has the table of the names on disk.
Everything is frozen: a manifest belongs to a bundle's digest and never changes. `bundles.manifest_reading` makes it out of
text.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from archelon_core.documents.problems import Path, Problem, json_path
from archelon_core.documents.tree import Json, Node, locate, plain

from .values import Pattern, ValueType, misfit


class Mutability(enum.StrEnum):
    """Who may write an attribute, in Hurtle's words."""

    IMMUTABLE = "immutable"  # the provider alone
    REQUIRED = "required"  # the tenant, who must give it at creation and may change it
    MUTABLE = "mutable"  # the tenant, at any time
    OPTIONAL = ""  # the same; Hurtle's manifests use both


class Phase(enum.StrEnum):
    """The phases of an instance's life that can have parameters, retries and timeouts of their own."""

    INITIALISE = "initialise"
    ACTIVATE = "activate"
    DEPLOY = "deploy"
    PROVISION = "provision"
    UPDATE = "update"
    STOP = "stop"
    START = "start"
    DESTROY = "destroy"


class OnFailedCreate(enum.StrEnum):
    """What becomes of the resources of an instance whose creation failed."""

    KEEP = "keep"  # for a look at them, and a retry
    ROLLBACK = "rollback"  # they are removed; the instance stays, as failed


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of the service's kind, or of one of its actions.

    Args:
        name: as on the wire.
        mutability: who may write it.
        type: OCCI's type.
        default: applied where the tenant gives no value; None where there is none.
        pattern: what values must match.
        secret: encrypted at rest and shown to its owner alone.
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
        """The tenant must give it at creation."""
        return self.mutability is Mutability.REQUIRED

    @property
    def writable(self) -> bool:
        """The tenant may give and change it."""
        return self.mutability is not Mutability.IMMUTABLE

    def misfit(self, value: Json) -> str | None:
        """Why the value does not fit, without repeating it, or None where it fits."""
        return misfit(value, self.type, self.pattern)


@dataclass(frozen=True, slots=True)
class Input:
    """A supplier's attribute that is written to the dependent once the supplier is up.

    Args:
        supplier: type of the supplier, which is in `depends_on` too.
        attribute: the supplier's attribute.
        target: the dependent's attribute; in Hurtle's form the same name.
    """

    supplier: str
    attribute: str
    target: str


class Binding(NamedTuple):
    """An instance that exists already and is used instead of a new one. Exactly one of the two is given.

    Args:
        id: the instance's id or URL, the same for every tenant.
        parameter: the attribute in which a tenant names it. Where the tenant leaves an optional one out, an instance is made.
    """

    id: str | None
    parameter: str | None


@dataclass(frozen=True, slots=True)
class Dependency:
    """Another service that the orchestrator uses for the tenant.

    Args:
        type: its type.
        inputs: what it is told about the other suppliers.
        attributes: what it is given at creation; a leaf may be `${name}`, an attribute of this service.
        binding: use an instance that exists; None to make one.
        region: where to make it; None for this instance's region.
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
        deployment: what is made.
        provision: an update of it that configures; None where there is nothing to add.
        environments: Heat's environments for both, a later one over an earlier.
    """

    deployment: str
    provision: str | None = None
    environments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """What is deployed to one region.

    Args:
        region: its name.
        format: of the templates; None to use those of whatever format the region's platform takes.
        templates: of this region; None to use the service's own (`Manifest.templates`).
        parameters: for this region's templates, over the tenant's attributes of the same name.
    """

    region: str
    format: str | None = None
    templates: Templates | None = None
    parameters: Mapping[str, Json] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class InternalParameter:
    """The provider's parameter for a phase. The orchestrator gets it, a tenant never sees it."""

    name: str
    type: ValueType
    value: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class PhasePolicy:
    """How patient a phase is.

    Args:
        timeout: seconds until an attempt counts as failed; None for the service manager's own.
        retries: attempts after the first; None for the service manager's own.
    """

    timeout: float | None = None
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """An OCCI action of the service's kind; it reaches the orchestrator as `on_action`."""

    term: str
    title: str = ""
    description: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits that an operator can change for a tenant. None: no limit of the manifest's.

    Args:
        instances: of this service at a time, for one tenant.
    """

    instances: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a manifest was read: it lets a later check name the line."""

    file: str
    root: Node

    def problem(self, path: Path, message: str, remedy: str, *, key: bool = False) -> Problem:
        """A problem at a path of the document.

        Args:
            path: keys and indices from the root.
            message: what is wrong.
            remedy: what to do.
            key: the last key is meant, not its value.
        """
        mark = locate(self.root, path, key=key)
        return Problem(self.file, mark.line, mark.column, json_path(path), message, remedy)

    def document(self) -> Json:
        """The document as plain values, as it was read."""
        return plain(self.root)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A service, described.

    Args:
        type: scheme, `#` and term: the type identifier of its OCCI kind.
        title: a name for people.
        description: for people.
        version: the provider's own, any text.
        icon: path of an image in the bundle.
        endpoint: URL at which Hurtle's service manager listened; None to derive it.
        attributes: of the kind, by name.
        actions: of the kind, by term.
        dependencies: other services, in the order of the file.
        resources: by region; empty where every region is served with `templates`.
        templates: by format.
        internal: the provider's parameters by phase.
        internal_file: file in the bundle that holds them instead.
        phases: retries and timeouts by phase.
        on_failed_create: keep or roll back.
        image: the orchestrator's container image instead of code in the bundle.
        quotas: default limits.
        extensions: keys beginning with `x-`, for other programs.
        source: where it was read; plays no part in comparisons.
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
    quotas: Quotas = Quotas()
    extensions: Mapping[str, Json] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        """The kind's scheme, `#` included."""
        return self.type[: self.type.rindex("#") + 1]

    @property
    def term(self) -> str:
        """The kind's term; its location is `/<term>/`."""
        return self.type[self.type.rindex("#") + 1 :]

    def templates_for(self, region: str, platform_format: str) -> tuple[str, Templates] | None:
        """The format and the templates to use in a region, or None where the service cannot be deployed there.

        Args:
            region: its name.
            platform_format: the format that the region's platform takes.
        """
        resources = self.resources.get(region)
        if resources is None:
            if self.resources:
                return None
            wanted = platform_format
        else:
            wanted = resources.format or platform_format
            if resources.templates is not None:
                return (wanted, resources.templates)
        chosen = self.templates.get(wanted)
        return (wanted, chosen) if chosen is not None else None
