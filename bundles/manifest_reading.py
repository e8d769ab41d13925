"""Reads a manifest from text: parses it, validates it against the JSON Schema, then checks what a schema cannot express.

Every step collects problems; the model is only built if there are none. The checks here concern one manifest by itself. Those
that need other files of the bundle are in `bundles.bundle`, those that need other manifests in `bundles.graph`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from archelon_core.documents.problems import MAX_PROBLEMS, DocumentError, Path, Problem, listed
from archelon_core.documents.reading import only_document, read_text
from archelon_core.documents.tree import DocumentLimits, Node, descend, plain

from .archive_paths import path_fault, path_of_url
from .manifest import (
    RESERVED_PREFIXES,
    Action,
    Attribute,
    Binding,
    Dependency,
    Hosting,
    Input,
    InternalParameter,
    Manifest,
    Mutability,
    OnFailedCreate,
    Phase,
    PhasePolicy,
    Quotas,
    Resources,
    Source,
    Templates,
)
from .schema import schema_problems
from .templates import Template
from .values import Pattern, PatternError, ValueType, misfit

#: Limits on a manifest; they also bound the cost of validation by the schema.
MANIFEST_LIMITS = DocumentLimits(nodes=20_000)
#: The remedy for a file without a document.
NEEDED = "see docs/manifest.md for what belongs in it"
#: Hurtle's regions name HOT templates without a format.
HOT = "hot"

#: Actions of every service.
_RESERVED_ACTIONS = frozenset({"lock", "renew", "report", "retry", "start", "stop", "unlock"})
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DAY = 86400


def read_manifest(text: str, *, file: str) -> Manifest:
    """Read the manifest in a text.

    Args:
        text: JSON if `file` ends in `.json`, YAML otherwise.
        file: its name, for problems.

    Raises:
        DocumentError: with all problems.
    """
    return manifest_of(
        only_document(read_text(text, file=file, limits=MANIFEST_LIMITS), file, needed=NEEDED), file=file
    )


def manifest_of(root: Node, *, file: str, checked: bool = False) -> Manifest:
    """Read the manifest in a document.

    Args:
        root: the document.
        file: its name, for problems.
        checked: whether it was valid before: it is checked again only if it cannot be read. The validator takes longer to import
            than the manifest to read.

    Raises:
        DocumentError: with all problems.
    """
    value: Any = plain(root)
    source = Source(file, root)
    if checked:
        # Whatever the error is, the checks below name its cause.
        with contextlib.suppress(Exception):
            return _build(value, source)
    problems = schema_problems(root, file=file)
    if problems:
        raise DocumentError(problems)
    problems = list(itertools.islice(_Checks(value, source).problems(), MAX_PROBLEMS))
    if problems:
        raise DocumentError(problems)
    return _build(value, source)


def read_internal(root: Node, *, file: str) -> Mapping[Phase, tuple[InternalParameter, ...]]:
    """Read the provider's parameters from a separate file (Hurtle's `service_params.json`).

    Raises:
        DocumentError: with all problems.
    """
    problems = schema_problems(root, file=file, definition="service_params")
    value: Any = plain(root)
    if not problems:
        problems = list(_internal_problems(value, (), Source(file, root)))
    if problems:
        raise DocumentError(problems)
    return _internal(value)


class _Checks:
    """The checks of one manifest that a schema cannot express."""

    def __init__(self, value: dict[str, Any], source: Source) -> None:
        self._value = value
        self._source = source
        self._attributes: dict[str, Any] = value.get("service_attributes", {})

    def problems(self) -> Iterator[Problem]:
        """All problems."""
        yield from self._attribute_problems(self._attributes, ("service_attributes",))
        for term, action in self._value.get("service_actions", {}).items():
            path: Path = ("service_actions", term)
            if term in _RESERVED_ACTIONS:
                yield self._source.problem(
                    path, "every service already has this action", "choose another term", key=True
                )
            yield from self._attribute_problems(action.get("attributes", {}), (*path, "attributes"))
        yield from self._dependency_problems()
        yield from self._file_problems()
        params = self._value.get("service_params")
        if isinstance(params, dict):
            yield from _internal_problems(params, ("service_params",), self._source)
        for phase, policy in self._value.get("phases", {}).items():
            timeout = policy.get("timeout")
            if timeout is not None and not 0 < _seconds(timeout) <= _DAY:
                path = ("phases", phase, "timeout")
                yield self._source.problem(path, "is not between a second and a day", "write 1s to 24h")

    def _attribute_problems(self, attributes: dict[str, Any], path: Path) -> Iterator[Problem]:
        for name, declared in attributes.items():
            here = (*path, name)
            if name.lower().startswith(RESERVED_PREFIXES):
                yield self._source.problem(
                    here,
                    "the name belongs to the platform",
                    f"choose one that does not begin with {', '.join(RESERVED_PREFIXES)}",
                    key=True,
                )
            if isinstance(declared, dict):
                yield from self._declaration_problems(declared, here)

    def _declaration_problems(self, declared: dict[str, Any], path: Path) -> Iterator[Problem]:
        kind = ValueType(declared.get("type", "string"))
        pattern = None
        if "pattern" in declared:
            try:
                pattern = Pattern(declared["pattern"])
            except PatternError as error:
                yield self._source.problem((*path, "pattern"), str(error), "see patterns in docs/manifest.md")
            if isinstance(declared["pattern"], str) and kind is not ValueType.STRING:
                remedy = "write a JSON Schema, such as {minimum: 1}, or make the type string"
                yield self._source.problem((*path, "pattern"), f"a regular expression for a {kind.value}", remedy)
        if declared.get("default") is None:
            return
        here = (*path, "default")
        if declared.get("secret", False):
            remedy = "leave it out; a provider's secret belongs in service_params"
            yield self._source.problem(here, "every tenant would read the default of a secret", remedy)
        elif declared.get("mutability") == Mutability.REQUIRED.value:
            remedy = "leave out the default, or the mutability"
            yield self._source.problem(here, "a required attribute never takes its default", remedy)
        elif fault := misfit(declared["default"], kind, pattern):
            yield self._source.problem(here, fault, "change the default, or the type and pattern")

    def _dependency_problems(self) -> Iterator[Problem]:
        entries = [next(iter(entry.items())) for entry in self._value.get("depends_on", [])]
        suppliers = [supplier for supplier, _ in entries]
        for index, (supplier, wanted) in enumerate(entries):
            path: Path = ("depends_on", index, supplier)
            if supplier == self._value["service_type"]:
                remedy = "remove the entry, or name another service"
                yield self._source.problem(path, "the service depends on itself", remedy, key=True)
            if supplier in suppliers[:index]:
                yield self._source.problem(path, "the service is listed twice", "keep one entry for it", key=True)
            yield from self._input_problems(wanted, path, suppliers)
            parameter = wanted.get("bind", {}).get("parameter")
            if parameter is not None:
                yield from self._binding_problems(parameter, (*path, "bind", "parameter"))
            if "id" in wanted.get("bind", {}) and wanted.get("attributes"):
                remedy = "leave out the attributes, or the binding"
                yield self._source.problem(
                    (*path, "attributes"), "no instance is created that could take them: bind names one", remedy
                )
            yield from self._reference_problems((*path, "attributes"))

    def _reference_problems(self, path: Path) -> Iterator[Problem]:
        node = descend(self._source.root, path)
        if node is None:
            return
        try:
            template = Template((node,), file=self._source.file, base=path)
        except DocumentError as error:
            yield from error.problems
            return
        known = listed(self._attributes)
        for found in template.references:
            if found.node is not None or found.name not in self._attributes:
                remedy = f"name one of this service's attributes: {known}"
                yield self._source.problem((*path, *found.path), f"${{{found.text}}} is unknown", remedy)

    def _input_problems(self, wanted: dict[str, Any], path: Path, suppliers: list[str]) -> Iterator[Problem]:
        targets: set[str] = set()
        for index, declared in enumerate(wanted.get("inputs", [])):
            here = (*path, "inputs", index)
            taken = _input(declared)
            if taken.supplier not in suppliers:
                remedy = (
                    f"add the entry {{{taken.supplier}: {{}}}} to depends_on, or take the attribute of another service"
                )
                yield self._source.problem(here, f"depends_on has no entry for {taken.supplier}", remedy)
            if taken.supplier == path[-1]:
                message = f"the input comes from {taken.supplier}, the very service that takes it"
                remedy = "take it from another service of depends_on, or give a value of yours under attributes"
                yield self._source.problem(here, message, remedy)
            if taken.target in targets:
                remedy = "give it another name with {from: …, as: …}"
                yield self._source.problem(here, f"a second input for {taken.target}", remedy)
            targets.add(taken.target)

    def _binding_problems(self, parameter: str, path: Path) -> Iterator[Problem]:
        declared = self._attributes.get(parameter)
        if declared is None:
            remedy = f"declare {parameter} in service_attributes"
            yield self._source.problem(path, f"no attribute {parameter}", remedy)
            return
        described = _attribute(parameter, declared)
        if not described.writable or described.type is not ValueType.STRING:
            remedy = f"make {parameter} a string that is not immutable"
            yield self._source.problem(path, "a tenant could not name an instance in it", remedy)

    def _file_problems(self) -> Iterator[Problem]:
        files: list[tuple[Path, str]] = []
        for section in ("resources", "templates"):
            for name, templates in self._value.get(section, {}).items():
                files.extend(
                    ((section, name, part), templates[part])
                    for part in ("deployment", "provision")
                    if part in templates
                )
                for index, environment in enumerate(templates.get("environments", [])):
                    files.append(((section, name, "environments", index), environment))
        if "icon" in self._value:
            files.append((("icon",), self._value["icon"]))
        if isinstance(self._value.get("service_params"), str):
            files.append((("service_params",), self._value["service_params"]))
        for path, reference in files:
            fault = path_fault(bundle_path(reference))
            if "://" in bundle_path(reference):
                fault = "is a URL"
            if fault is not None:
                remedy = "put the file into the bundle and write its path there, such as templates/web.yaml"
                yield self._source.problem(path, fault, remedy)
        known = self._value.get("templates", {})
        for region, declared in self._value.get("resources", {}).items():
            if "deployment" in declared:
                continue
            wanted = declared.get("format")
            if not known or (wanted is not None and wanted not in known):
                missing = f"templates has no {wanted}" if wanted else "no templates"
                remedy = f"add {'templates.' + wanted if wanted else 'templates'}, or a deployment to the region"
                yield self._source.problem(("resources", region), missing, remedy)


def bundle_path(reference: str) -> str:
    """The path inside the bundle that a manifest refers to. `file:` URLs begin at the bundle's root."""
    path = path_of_url(reference)
    return reference.removeprefix("./") if path is None else path


def _internal_problems(value: dict[str, Any], path: Path, source: Source) -> Iterator[Problem]:
    for phase, parameters in value.items():
        names: set[str] = set()
        for index, parameter in enumerate(parameters):
            here = (*path, phase, index)
            if parameter["name"] in names:
                yield source.problem((*here, "name"), "the parameter is defined twice", "keep one of them")
            names.add(parameter["name"])
            if fault := misfit(parameter["value"], ValueType(parameter.get("type", "string"))):
                yield source.problem((*here, "value"), fault, "change the value or the type")


def _seconds(timeout: float | str) -> float:
    return float(int(timeout[:-1]) * _SECONDS[timeout[-1]] if isinstance(timeout, str) else timeout)


def _build(value: dict[str, Any], source: Source) -> Manifest:
    params = value.get("service_params", {})
    return Manifest(
        type=value["service_type"],
        source=source,
        title=value.get("title", ""),
        description=value.get("service_description", ""),
        version=value.get("version", ""),
        icon=bundle_path(value["icon"]) if "icon" in value else None,
        endpoint=value.get("service_endpoint"),
        attributes=_attributes(value.get("service_attributes", {})),
        actions={term: _action(term, declared) for term, declared in value.get("service_actions", {}).items()},
        dependencies=tuple(_dependency(*next(iter(entry.items()))) for entry in value.get("depends_on", [])),
        resources={name: _region(name, declared) for name, declared in value.get("resources", {}).items()},
        templates={name: _templates(declared) for name, declared in value.get("templates", {}).items()},
        internal=_internal(params) if isinstance(params, dict) else {},
        internal_file=bundle_path(params) if isinstance(params, str) else None,
        phases={Phase(phase): _policy(declared) for phase, declared in value.get("phases", {}).items()},
        on_failed_create=OnFailedCreate(value.get("on_failed_create", "keep")),
        image=value.get("image"),
        hosting=Hosting(value.get("hosting", "")),
        quotas=Quotas(**value.get("quotas", {})),
        extensions={key: item for key, item in value.items() if key.startswith("x-")},
    )


def _attributes(declared: dict[str, Any]) -> dict[str, Attribute]:
    return {name: _attribute(name, item) for name, item in declared.items()}


def _attribute(name: str, declared: str | dict[str, Any]) -> Attribute:
    if isinstance(declared, str):
        return Attribute(name, Mutability(declared))
    return Attribute(
        name,
        Mutability(declared.get("mutability", "")),
        type=ValueType(declared.get("type", "string")),
        default=declared.get("default"),
        pattern=Pattern(declared["pattern"]) if "pattern" in declared else None,
        secret=declared.get("secret", False),
        description=declared.get("description", ""),
    )


def _action(term: str, declared: dict[str, Any]) -> Action:
    return Action(
        term,
        title=declared.get("title", ""),
        description=declared.get("description", ""),
        attributes=_attributes(declared.get("attributes", {})),
    )


def _input(declared: str | dict[str, str]) -> Input:
    reference = declared if isinstance(declared, str) else declared["from"]
    supplier, attribute = reference.rsplit("#", 1)
    return Input(supplier, attribute, attribute if isinstance(declared, str) else declared["as"])


def _dependency(supplier: str, wanted: dict[str, Any]) -> Dependency:
    bind = wanted.get("bind")
    return Dependency(
        supplier,
        inputs=tuple(_input(item) for item in wanted.get("inputs", [])),
        attributes=wanted.get("attributes", {}),
        binding=Binding(bind.get("id"), bind.get("parameter")) if bind is not None else None,
        region=wanted.get("region"),
    )


def _templates(declared: dict[str, Any]) -> Templates:
    provision = declared.get("provision")
    return Templates(
        bundle_path(declared["deployment"]),
        bundle_path(provision) if provision is not None else None,
        tuple(bundle_path(each) for each in declared.get("environments", ())),
    )


def _region(name: str, declared: dict[str, Any]) -> Resources:
    own = _templates(declared) if "deployment" in declared else None
    return Resources(
        name,
        format=declared.get("format", HOT if own is not None else None),
        templates=own,
        parameters=declared.get("parameters", {}),
    )


def _internal(declared: dict[str, Any]) -> dict[Phase, tuple[InternalParameter, ...]]:
    return {
        Phase(phase): tuple(
            InternalParameter(item["name"], ValueType(item.get("type", "string")), item["value"]) for item in parameters
        )
        for phase, parameters in declared.items()
    }


def _policy(declared: dict[str, Any]) -> PhasePolicy:
    timeout = declared.get("timeout")
    return PhasePolicy(_seconds(timeout) if timeout is not None else None, declared.get("retries"))
