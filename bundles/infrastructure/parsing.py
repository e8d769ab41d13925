"""From text to a checked `Description`.

The keys are Occopus' (`infra_name`, `nodes`, `type`, `filter`, `scaling`, `variables`, `dependencies` with `connection` and
`mappings`; `'node_def:…'` with `resource`, `contextualisation`, `health_check`), so its descriptions are valid here;
`parameters`, `outputs` and `node_definitions` are ours. A dependency `[a, b]` means that a needs b. If several implementations
pass a node's filter, the first is used, where Occopus picks one at random: the same order twice creates the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Protocol

import re2

from archelon_core.transactions import forbid_in_transaction

from .description import Description, Health, Implementation, Mapped, Node, Output, Parameter
from .graph import cycle
from .rendering import (
    DescriptionError,
    Place,
    RenderedItem,
    Scalar,
    Value,
    plain,
    read_document,
    references,
    substitutable,
    text_of,
)
from .sections import Section, entries, word

_PREFIX = "node_def:"
_TOP = (
    "infra_name",
    "infra_id",
    "user_id",
    "nodes",
    "dependencies",
    "variables",
    "parameters",
    "outputs",
    "node_definitions",
    "description",
)
_ALIASES = {
    "ip": "address",
    "ipaddr": "address",
    "fqdn": "address",
    "hostname": "address",
    "ip_address": "address",
    "node_id": "id",
}
#: The attributes of a node that can be referred to, besides `ports.<name>` and a resource type's own.
ATTRIBUTES = ("address", "addresses", "endpoints", "id", "name", "port")
_NODE_NAME = re2.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
#: Total instances of all nodes of a stack.
_MAXIMUM_INSTANCES = 1000
#: Maximum numbers in a description: cross-checks of more would take too long.
_MOST = {
    "nodes": _MAXIMUM_INSTANCES,
    "dependencies": 2000,
    "parameters": 200,
    "outputs": 500,
    "variables": 500,
    "node definitions": 500,
    "implementations": 16,
    "mappings": 100,
    "references": 1000,
}
#: Maximum characters of a pattern.
_PATTERN = 1000


class Checker(Protocol):
    """A resource type, of which only the check of its own keys is needed here."""

    def check(self, implementation: Implementation) -> None:
        """Reject an invalid implementation. Raises DescriptionError with the place."""


def parse(
    text: str, *, files: Mapping[str, str], types: Mapping[str, Checker], others: bool = False, name: str = "template"
) -> Description:
    """Parse and check a description.

    Args:
        text: the YAML of the infrastructure; it may contain node definitions.
        files: files of the bundle, by name. Node definitions are read from those that `node_definitions` lists; without it,
            from every `node_definitions.yaml` in any folder.
        types: resource types of the platform, by name.
        others: whether the platform is not known: it may have any of these types, and others.
        name: of the description, for messages.

    Raises:
        DescriptionError: with place and remedy.
    """
    forbid_in_transaction("reading of a description")
    root = read_document(name, text, files)
    known = [key for key in root.value if key.startswith(_PREFIX)] if isinstance(root.value, Mapping) else []
    top = Section(root, "the description", (*_TOP, *known))
    definitions = _definitions(top, files)
    parameters = _parameters(top)
    variables = _scalars(top.item("variables"), "variables")
    nodes: dict[str, Node] = {}
    usable = _Usable(types, others=others)
    for item in _limited_entries(top.need("nodes"), "nodes"):
        node = _node(item, definitions, variables, usable)
        if node.name in nodes:
            raise DescriptionError(item.place, f"a second node is named {node.name!r}", "give it another name")
        nodes[node.name] = node
    if not nodes:
        raise DescriptionError(top.need("nodes").place, "no nodes are described", "describe at least one")
    if sum(node.maximum for node in nodes.values()) > _MAXIMUM_INSTANCES:
        place = top.need("nodes").place
        raise DescriptionError(
            place, f"more than {_MAXIMUM_INSTANCES} instances are possible", "lower 'max', or split the stack"
        )
    nodes = _with_dependencies(top, nodes)
    outputs = _outputs(top)
    description = Description(top.text("infra_name"), nodes, parameters, outputs)
    _check_references(description, top, usable)
    return description


def _definitions(top: Section, files: Mapping[str, str]) -> dict[str, list[Implementation]]:
    listed = top.item("node_definitions")
    sources: list[Mapping[str, RenderedItem]] = [
        {key: item for key, item in top.items.items() if key.startswith(_PREFIX)}
    ]
    if listed is not None:
        names = {}
        for entry in entries(listed, "'node_definitions'"):
            wanted = word(entry, "a file's name")
            if wanted not in files:
                known_files = ", ".join(sorted(files)) or "none"
                raise DescriptionError(entry.place, f"unknown file {wanted!r}", f"add it; known are {known_files}")
            names[wanted] = entry.place
    else:
        names = {
            path: Place(path, 1, 1)
            for path in sorted(files)
            if PurePosixPath(path).name in ("node_definitions.yaml", "node_definitions.yml")
        }
    for path, place in names.items():
        text = text_of(files, path, place)
        section = Section(read_document(path, text, files), "a file of node definitions")
        for key, item in section.items.items():
            if not key.startswith(_PREFIX):
                raise DescriptionError(item.place, f"{key!r} is not a node definition", f"name it '{_PREFIX}…'")
        sources.append(section.items)
    found: dict[str, list[Implementation]] = {}
    for source in sources:
        for key, item in source.items():
            known = found.setdefault(key.removeprefix(_PREFIX), [])
            known += [_implementation(entry) for entry in entries(item, f"{key!r}")]
            _check_number(len(known), "implementations", item.place)
            _check_number(len(found), "node definitions", item.place)
    return found


def _check_number(number: int, what: str, place: Place) -> None:
    if number > _MOST[what]:
        raise DescriptionError(place, f"more than {_MOST[what]} {what}", "remove some, or split the stack")


def _limited_entries(item: RenderedItem | None, what: str) -> tuple[RenderedItem, ...]:
    """Return the entries of a list, after checking their number."""
    found = entries(item, f"{what!r}")
    if item is not None:
        _check_number(len(found), what, item.place)
    return found


def _limited_items(item: RenderedItem, what: str) -> Mapping[str, RenderedItem]:
    """Return the items of a mapping, after checking their number."""
    found = Section(item, f"{what!r}").items
    _check_number(len(found), what, item.place)
    return found


def _implementation(item: RenderedItem) -> Implementation:
    section = Section(item, "an implementation", ("resource", "contextualisation", "config_management", "health_check"))
    resource = section.need("resource")
    return Implementation(
        type=Section(resource, "'resource'").text("type"),
        resource=resource,
        contextualisation=section.item("contextualisation"),
        config_management=section.item("config_management"),
        health=_health(section.item("health_check")),
        health_check=section.item("health_check"),
        place=item.place,
    )


_HEALTH_CHECK = ("ping", "ports", "urls", "mysqldbs", "commands", "timeout", "interval", "min_uptime")


def _health(item: RenderedItem | None) -> Health:
    if item is None:
        return Health()
    section = Section(item, "'health_check'", _HEALTH_CHECK)
    ports = []
    for entry in entries(section.item("ports"), "'ports'"):
        if isinstance(entry.value, bool) or not isinstance(entry.value, int | str):
            raise DescriptionError(entry.place, "a port must be a number or a name", "correct it")
        ports.append(entry.value)
    databases = []
    for entry in entries(section.item("mysqldbs"), "'mysqldbs'"):
        database = Section(entry, "a database", ("name", "user", "pass"))
        databases.append({key: database.text(key) for key in ("name", "user", "pass")})
    commands = [command_list(entry, "a command") for entry in entries(section.item("commands"), "'commands'")]
    return Health(
        ping=section.flag("ping", default=True),
        ports=tuple(ports),
        urls=tuple(word(entry, "a URL") for entry in entries(section.item("urls"), "'urls'")),
        mysqldbs=tuple(databases),
        commands=tuple(commands),
        timeout=section.seconds("timeout", 600.0),
        interval=section.seconds("interval", 5.0, least=0.05),
        min_uptime=section.seconds("min_uptime", 2.0, least=0.0),
    )


def command_list(item: RenderedItem, what: str) -> tuple[str, ...]:
    """Return a command as an argument list; a string is rejected, since only a shell could split it."""
    if not isinstance(item.value, tuple) or not item.value:
        raise DescriptionError(item.place, f"{what} must be a list of arguments", "write [program, argument, …]")
    arguments = []
    for entry in item.value:
        if isinstance(entry.value, bool) or not isinstance(entry.value, str | int | float):
            raise DescriptionError(entry.place, "an argument must be a text or a number", "put it in quotes")
        arguments.append(str(entry.value))
    return tuple(arguments)


def _node(
    item: RenderedItem,
    definitions: Mapping[str, list[Implementation]],
    inherited: Mapping[str, Scalar],
    usable: _Usable,
) -> Node:
    section = Section(item, "the node", ("name", "type", "filter", "scaling", "variables"))
    name, kind = section.text("name"), section.text("type")
    if not _NODE_NAME.fullmatch(name):
        raise DescriptionError(
            section.need("name").place, f"{name!r} is not a node's name", "use 1 to 63 of [A-Za-z0-9_-]"
        )
    if kind not in definitions:
        known = ", ".join(sorted(definitions)) or "none"
        raise DescriptionError(
            section.need("type").place, f"no definition 'node_def:{kind}'", f"add it; known are {known}"
        )
    chosen = usable.choose(section, kind, definitions[kind])
    scaling = section.item("scaling")
    minimum = maximum = 1
    if scaling is not None:
        bounds = Section(scaling, "'scaling'", ("min", "max"))
        minimum = bounds.whole("min", 1, least=1)
        maximum = bounds.whole("max", minimum, least=1)
        if not minimum <= maximum <= _MAXIMUM_INSTANCES:
            raise DescriptionError(
                scaling.place, f"{minimum} to {maximum} is not a range", f"1 ≤ min ≤ max ≤ {_MAXIMUM_INSTANCES}"
            )
    variables = {**inherited, **_scalars(section.item("variables"), "variables")}
    return Node(name, kind, chosen, item.place, minimum=minimum, maximum=maximum, variables=variables)


class _Usable:
    """Chooses the implementations of nodes: a platform creates the first that passes a node's filter and whose type it has.

    If the platform is not known, each type's first may be the chosen one, and those of known types must all be valid. The others
    may be for platforms with another language, such as Occopus' own with all of Jinja2: they matter only to a node that has
    nothing else, and then one without faults is enough.
    """

    def __init__(self, types: Mapping[str, Checker], *, others: bool) -> None:
        self.types = types
        self._others = others
        self._checked: set[int] = set()
        #: The implementations that each node may have, by its name: all of known types, or all of others.
        self.candidates: dict[str, list[Implementation]] = {}

    def choose(self, section: Section, kind: str, implementations: list[Implementation]) -> Implementation:
        found = self._found(section, kind, implementations)
        self.candidates[section.text("name")] = found
        return found[0]

    def _found(self, section: Section, kind: str, implementations: list[Implementation]) -> list[Implementation]:
        wanted: Value = {}
        place = section.place
        given = section.item("filter")
        if given is not None:
            Section(given, "'filter'")
            wanted, place = plain(given), given.place
        assert isinstance(wanted, dict)
        passed = [each for each in implementations if _passes(each, wanted)]
        if not passed:
            known = "; ".join(sorted({implementation.type for implementation in implementations}))
            raise DescriptionError(
                place, f"no implementation of {kind!r} passes the filter", f"change the filter; known types are {known}"
            )
        firsts: dict[str, Implementation] = {}
        for implementation in passed:
            firsts.setdefault(implementation.type, implementation)
        found = [each for each in firsts.values() if each.type in self.types]
        if not self._others:
            found = found[:1]
        for implementation in found:
            if id(implementation) not in self._checked:
                self.types[implementation.type].check(implementation)
                self._checked.add(id(implementation))
        if found:
            return found
        if self._others:
            return [*firsts.values()]
        offered = ", ".join(sorted({implementation.type for implementation in passed}))
        raise DescriptionError(
            passed[0].place,
            f"{kind!r} has implementations of type {offered} only, which this platform does not support",
            f"add one of type {' or '.join(sorted(self.types))}",
        )


def _passes(implementation: Implementation, wanted: Mapping[str, Value]) -> bool:
    resource = implementation.resource.value
    assert isinstance(resource, Mapping)
    return all(key in resource and plain(resource[key]) == value for key, value in wanted.items())


def _with_dependencies(top: Section, nodes: dict[str, Node]) -> dict[str, Node]:
    needs: dict[str, set[str]] = {name: set() for name in nodes}
    mappings: dict[str, list[Mapped]] = {name: [] for name in nodes}
    listed = top.item("dependencies")
    for item in _limited_entries(listed, "dependencies"):
        pair, mapped = item, None
        if isinstance(item.value, Mapping):
            # Occopus lets mediating services add their own keys here.
            section = Section(item, "a dependency")
            pair, mapped = section.need("connection"), section.item("mappings")
        ends = entries(pair, "a dependency")
        if len(ends) != 2:
            raise DescriptionError(pair.place, "a dependency joins two nodes", "write [dependent, needed]")
        dependent, needed = (_dependency_end(end, nodes) for end in ends)
        needs[dependent].add(needed)
        mappings[dependent].extend(_mapped(entry, needed) for entry in _limited_entries(mapped, "mappings"))
        _check_number(len(mappings[dependent]), "mappings", item.place)
    found = {
        name: replace(node, needs=frozenset(needs[name]), mappings=tuple(mappings[name]))
        for name, node in nodes.items()
    }
    circle = cycle({name: frozenset(sorted(needed)) for name, needed in needs.items()})
    if circle is not None:
        place = listed.place if listed is not None else top.place
        raise DescriptionError(place, f"the dependencies form a cycle: {' → '.join(circle)}", "remove one of them")
    return found


def _dependency_end(item: RenderedItem, nodes: Mapping[str, Node]) -> str:
    named = isinstance(item.value, Mapping)
    name = Section(item, "a node").text("name") if named else word(item, "the end of a dependency")
    if name not in nodes:
        raise DescriptionError(item.place, f"unknown node {name!r}", f"expected one of {', '.join(nodes)}")
    return name


def _mapped(item: RenderedItem, needed: str) -> Mapped:
    pair = item
    if isinstance(item.value, Mapping):
        pair = Section(item, "a mapping").need("attributes")
    ends = entries(pair, "a mapping")
    if len(ends) != 2:
        raise DescriptionError(
            pair.place, "a mapping joins two attributes", "write [attribute, name for the dependent]"
        )
    attribute, name = (word(end, "an attribute") for end in ends)
    return Mapped(needed, _ALIASES.get(attribute, attribute), name)


def _parameters(top: Section) -> dict[str, Parameter]:
    item = top.item("parameters")
    if item is None:
        return {}
    found = {}
    for name, entry in _limited_items(item, "parameters").items():
        known = (
            "type",
            "default",
            "description",
            "label",
            "secret",
            "hidden",
            "allowed_values",
            "pattern",
            "minimum",
            "maximum",
        )
        section = Section(entry, f"parameter {name!r}", known)
        default = section.item("default")
        for scalar in (default, *entries(section.item("allowed_values"), "'allowed_values'")):
            if scalar is not None and isinstance(scalar.value, tuple | Mapping):
                raise DescriptionError(scalar.place, "a parameter's value must be a scalar", "correct it")
        pattern = section.text("pattern", "")
        if len(pattern) > _PATTERN:
            problem = f"a pattern must have at most {_PATTERN} characters"
            raise DescriptionError(section.need("pattern").place, problem, "shorten it")
        try:
            re2.compile(pattern)
        except re2.error:
            raise DescriptionError(
                section.need("pattern").place, "this is not an RE2 pattern", "correct it; RE2 has no look-around"
            ) from None
        found[name] = Parameter(
            name,
            entry.place,
            type=section.choice("type", "string", ("string", "number", "boolean")),
            default=plain(default) if default is not None else None,  # type: ignore[arg-type]
            description=section.text("description", ""),
            secret=section.flag("secret", default=section.flag("hidden", default=False)),
            allowed=tuple(plain(value) for value in entries(section.item("allowed_values"), "")),  # type: ignore[misc]
            pattern=pattern,
            minimum=_bound(section.item("minimum")),
            maximum=_bound(section.item("maximum")),
        )
    return found


def _bound(item: RenderedItem | None) -> float | None:
    if item is None:
        return None
    if isinstance(item.value, bool) or not isinstance(item.value, int | float):
        raise DescriptionError(item.place, "a bound must be a number", "correct it")
    return float(item.value)


def _outputs(top: Section) -> dict[str, Output]:
    item = top.item("outputs")
    if item is None:
        return {}
    found = {}
    for name, entry in _limited_items(item, "outputs").items():
        section = Section(entry, f"output {name!r}", ("value", "description", "secret"))
        found[name] = Output(
            name,
            substitutable(section.need("value")),
            section.text("description", ""),
            section.flag("secret", default=False),
        )
    return found


def _scalars(item: RenderedItem | None, what: str) -> dict[str, Scalar]:
    if item is None:
        return {}
    found = {}
    for key, entry in _limited_items(item, what).items():
        if isinstance(entry.value, tuple | Mapping):
            raise DescriptionError(entry.place, f"the variable {key!r} must be a single value", "write a scalar")
        found[key] = entry.value
    return found


def _check_references(description: Description, top: Section, usable: _Usable) -> None:
    # Read each implementation once: many nodes may share a large one.
    referred: dict[int, dict[str, Place] | DescriptionError] = {}
    for node in description.nodes.values():
        reach = description.before(node.name)
        faults: list[DescriptionError] = []
        candidates = usable.candidates[node.name]
        for candidate in candidates:
            try:
                if id(candidate) not in referred:
                    referred[id(candidate)] = _referred(candidate)
                found = referred[id(candidate)]
                if isinstance(found, DescriptionError):
                    raise found
                for name, place in found.items():
                    _check_reference(description, name, RenderedItem(None, place), node=node, reach=reach)
            except DescriptionError as error:
                faults.append(error)
                referred.setdefault(id(candidate), error)
        if faults and (candidates[0].type in usable.types or len(faults) == len(candidates)):
            raise faults[0]
    outputs = top.item("outputs")
    if outputs is not None:
        reach = frozenset(description.nodes)
        for name, place in references(outputs):
            _check_reference(description, name, RenderedItem(None, place), node=None, reach=reach)


def _referred(chosen: Implementation) -> dict[str, Place]:
    """Return the references in an implementation, each with the first place where it occurs."""
    found: dict[str, Place] = {}
    for part in (chosen.resource, chosen.contextualisation, chosen.health_check):
        if part is not None:
            for name, place in references(part):
                found.setdefault(name, place)
    _check_number(len(found), "references", chosen.place)
    return found


def _check_reference(
    description: Description, name: str, at: RenderedItem, *, node: Node | None, reach: frozenset[str]
) -> None:
    space, _, rest = name.partition(".")
    known: list[str]
    if space == "nodes":
        source, _, attribute = rest.partition(".")
        if source not in description.nodes:
            raise DescriptionError(at.place, f"{name!r} names no node", f"choose from {', '.join(description.nodes)}")
        if source not in reach:
            dependent = node.name if node else ""
            raise DescriptionError(
                at.place,
                f"{dependent!r} refers to {source!r}, which it does not depend on",
                f"add the dependency [{dependent}, {source}]" if source != dependent else "write ${self.…}",
            )
        _check_attribute(at, name, attribute)
        return
    if space == "self" and node is not None:
        _check_attribute(at, name, rest)
        return
    if space == "parameters":
        known = list(description.parameters)
    elif space == "variables" and node is not None:
        known = list(node.variables)
    elif space == "mapped" and node is not None:
        known = [mapped.name for mapped in node.mappings]
    elif space == "stack":
        known = ["id", "name"]
    else:
        spaces = "parameters, nodes, stack" if node is None else "parameters, variables, mapped, nodes, self, stack"
        raise DescriptionError(at.place, f"{name!r} does not begin with one of {spaces}", "correct the reference")
    if rest not in known:
        raise DescriptionError(at.place, f"{name!r} names nothing", f"choose from {', '.join(known) or 'none'}")


def _check_attribute(at: RenderedItem, name: str, attribute: str) -> None:
    if attribute not in ATTRIBUTES and not attribute.startswith("ports."):
        raise DescriptionError(
            at.place, f"{name!r} names no attribute", f"choose from {', '.join(ATTRIBUTES)}, ports.<name>"
        )
