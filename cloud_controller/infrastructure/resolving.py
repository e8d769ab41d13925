"""Resolves descriptions, parameters and observations to nodes that can be created."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import re2

from bundles.infrastructure.description import Description, Node, Parameter
from bundles.infrastructure.rendering import (
    DescriptionError,
    RenderedItem,
    Scalar,
    Value,
    references,
    substitutable,
    substitute,
)

from ..core.labels import Labels
from .resources import ObservedNode, WantedNode


@dataclass(frozen=True)
class WantedNodes:
    """A stack as it should be.

    Args:
        stack: its id; part of the names of its nodes' processes.
        parameters: checked, see `checked_parameters`.
        counts: instances by node name; other nodes have their minimum.
        presence: `present`, `suspended` (stopped, but kept) or `absent`.
        attempts: how often a failed node is recreated before its order fails; it is recreated further.
        backoff: seconds before the first attempt, doubled for each further one up to `backoff_limit`.
        rollback: whether a failed create removes everything.
        told: the resource types whose nodes need not be polled while they are healthy.
    """

    stack: str
    description: Description
    labels: Labels
    parameters: Mapping[str, Scalar] = field(default_factory=dict, repr=False)
    counts: Mapping[str, int] = field(default_factory=dict)
    presence: str = "present"
    attempts: int = 3
    backoff: float = 1.0
    backoff_limit: float = 300.0
    rollback: bool = True
    told: frozenset[str] = frozenset()

    def count(self, node: Node) -> int:
        """Return the number of a node's instances, within its bounds."""
        return min(max(self.counts.get(node.name, node.minimum), node.minimum), node.maximum)

    def keys(self, node: Node) -> list[str]:
        """Return the keys of a node's wanted instances."""
        return [key_of(node.name, index) for index in range(self.count(node))]

    def order(self) -> str:
        """Return a digest of the order; another digest is another order.

        It has the generation, so an unchanged order of a later one makes another attempt at once.
        """
        nodes: dict[str, Value] = {}
        for node in self.description.nodes.values():
            chosen = node.implementation
            nodes[node.name] = {
                "parts": [
                    substitutable(part)
                    for part in (chosen.resource, chosen.contextualisation, chosen.health_check)
                    if part
                ],
                "needs": list[Value](sorted(node.needs)),
                "mappings": [f"{mapped.source} {mapped.attribute} {mapped.name}" for mapped in node.mappings],
                "variables": dict(node.variables),
                "count": self.count(node),
            }
        order = {
            "nodes": nodes,
            "parameters": dict(self.parameters),
            "presence": self.presence,
            "generation": self.labels.generation,
        }
        return hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()


def key_of(node: str, index: int) -> str:
    """Return the key of one instance of a node."""
    return f"{node}.{index}"


def checked_parameters(description: Description, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the value of every parameter, given or by default. Raises DescriptionError, without an invalid value."""
    for name in given:
        if name not in description.parameters:
            known = ", ".join(description.parameters) or "none"
            place = next(iter(description.nodes.values())).place
            raise DescriptionError(place, f"unknown parameter {name!r}", f"leave it out; known are {known}")
    found: dict[str, Scalar] = {}
    for name, parameter in description.parameters.items():
        value = given.get(name, parameter.default)
        if value is None:
            raise DescriptionError(parameter.place, f"the parameter {name!r} has no value", "give one, or a default")
        found[name] = _checked(parameter, value)
    return found


def _checked(parameter: Parameter, value: Scalar) -> Scalar:
    def refuse(problem: str, remedy: str) -> DescriptionError:
        return DescriptionError(parameter.place, f"the value of parameter {parameter.name!r} {problem}", remedy)

    if parameter.type == "number":
        try:
            value = (
                value if isinstance(value, int | float) else float(str(value)) if "." in str(value) else int(str(value))
            )
        except ValueError:
            raise refuse("is not a number", "give one") from None
        low = parameter.minimum is not None and value < parameter.minimum
        high = parameter.maximum is not None and value > parameter.maximum
        if low or high:
            raise refuse("is out of bounds", f"choose from {parameter.minimum} to {parameter.maximum}")
    elif parameter.type == "boolean":
        booleans: dict[object, bool] = {"true": True, "false": False, True: True, False: False}
        key = value.lower() if isinstance(value, str) else value
        if key not in booleans:
            raise refuse("is neither true nor false", "give one of the two")
        value = booleans[key]
    else:
        value = str(value)
        if "\0" in value:
            raise refuse("contains a NUL character", "leave it out")
    if parameter.allowed and value not in parameter.allowed:
        raise refuse("is not allowed", f"choose from {', '.join(map(str, parameter.allowed))}")
    if parameter.pattern and not re2.fullmatch(parameter.pattern, str(value)):
        raise refuse("does not match", f"it must match {parameter.pattern}")
    return value


def resolve(wanted: WantedNodes, node: Node, index: int, observed: Mapping[str, ObservedNode]) -> WantedNode | str:
    """Return one instance of a node with all values it refers to; or a message about an unknown value."""
    chosen = node.implementation
    parts = [part for part in (chosen.resource, chosen.contextualisation, chosen.health_check) if part is not None]
    values: dict[str, Scalar] = {}
    for part in parts:
        for name, _place in references(part):
            if name.startswith("self."):
                continue
            value = _value(wanted, node, name, observed)
            if value is None:
                return f"{name} is not known yet"
            values[name] = value
    properties: dict[str, Value] = {
        "resource": substitutable(chosen.resource),
        "contextualisation": substitutable(chosen.contextualisation or RenderedItem({}, node.place)),
        "health_check": substitutable(chosen.health_check or RenderedItem({}, node.place)),
    }
    digest = {"type": chosen.type, "properties": properties, "values": values}
    return WantedNode(
        stack=wanted.stack,
        key=key_of(node.name, index),
        node=node.name,
        revision=hashlib.sha256(json.dumps(digest, sort_keys=True).encode()).hexdigest(),
        type=chosen.type,
        properties=properties,
        values=values,
        health=chosen.health,
        needs=tuple(sorted(node.needs)),
        labels=wanted.labels,
    )


def outputs(wanted: WantedNodes, observed: Mapping[str, ObservedNode]) -> dict[str, Value]:
    """Return the outputs whose references are all known."""
    found: dict[str, Value] = {}
    for name, output in wanted.description.outputs.items():
        missing: list[str] = []

        def find(reference: str, missing: list[str] = missing) -> Scalar:
            value = _value(wanted, None, reference, observed)
            if value is None:
                missing.append(reference)
            return value

        value = substitute(output.value, find)
        if not missing:
            found[name] = value
    return found


def _value(wanted: WantedNodes, node: Node | None, name: str, observed: Mapping[str, ObservedNode]) -> Scalar:
    space, _, rest = name.partition(".")
    if space == "parameters":
        return wanted.parameters.get(rest)
    if space == "stack":
        return wanted.stack if rest == "id" else wanted.description.name
    if space == "variables" and node is not None:
        value = node.variables.get(rest)
        return "" if value is None else value
    if space == "mapped" and node is not None:
        for mapped in node.mappings:
            if mapped.name == rest:
                return _attribute(wanted, mapped.source, mapped.attribute, observed)
        return None
    if space == "nodes":
        source, _, attribute = rest.partition(".")
        return _attribute(wanted, source, attribute, observed)
    return None


def _attribute(wanted: WantedNodes, source: str, attribute: str, observed: Mapping[str, ObservedNode]) -> Scalar:
    """Return an attribute of a node's first instance; `addresses` and `endpoints` are of all wanted instances."""
    keys = wanted.keys(wanted.description.nodes[source])
    if attribute not in ("addresses", "endpoints"):
        found = observed.get(keys[0])
        return found.attributes.get(attribute) if found is not None else None
    values = []
    for key in keys:
        attributes = observed[key].attributes if key in observed else {}
        address, port = attributes.get("address"), attributes.get("port")
        if address is None or (attribute == "endpoints" and port is None):
            return None
        values.append(f"{address}:{port}" if attribute == "endpoints" else str(address))
    return ",".join(values)
