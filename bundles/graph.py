"""Graphs of services: dependencies, what can start concurrently, and impossible cycles.

The service template graph (STG) is built from manifests. An edge means "creating an instance of this service creates one of
that"; a cycle of such edges would never end and is refused. Inputs are edges of another kind: they are written once both ends are
up, so they may form cycles, and order the suppliers only where they do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TypeVar

from archelon_core.documents.problems import DocumentError, Path, Problem, listed

from .manifest import RESERVED_PREFIXES, Dependency, Manifest

Name = TypeVar("Name", bound=str)


def strong_components(edges: Mapping[Name, Iterable[Name]]) -> list[tuple[Name, ...]]:
    """The strongly connected components, dependencies before dependents (Tarjan's algorithm, iteratively).

    Args:
        edges: the dependencies of every node. Every node is a key.
    """
    index: dict[Name, int] = {}
    low: dict[Name, int] = {}
    on_stack: set[Name] = set()
    stack: list[Name] = []
    found: list[tuple[Name, ...]] = []
    for root in edges:
        if root in index:
            continue
        work = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, below = work[-1]
            child = next(below, None)
            if child is None:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == index[node]:
                    start = stack.index(node)
                    group = stack[start:]
                    del stack[start:]
                    on_stack.difference_update(group)
                    found.append(tuple(group))
            elif child not in index:
                index[child] = low[child] = len(index)
                stack.append(child)
                on_stack.add(child)
                work.append((child, iter(edges[child])))
            elif child in on_stack:
                low[node] = min(low[node], index[child])
    return found


def layers(edges: Mapping[Name, Iterable[Name]]) -> tuple[tuple[Name, ...], ...]:
    """Layers of nodes that can start concurrently: each depends only on earlier layers, or on members of its own cycle.

    Args:
        edges: the dependencies of every node. Every node is a key.
    """
    depth: dict[Name, int] = {}
    result: list[list[Name]] = []
    for group in strong_components(edges):
        below = [depth[child] for node in group for child in edges[node] if child not in group]
        level = max(below, default=-1) + 1
        depth.update(dict.fromkeys(group, level))
        if level == len(result):
            result.append([])
        result[level].extend(group)
    position = {name: number for number, name in enumerate(edges)}
    return tuple(tuple(sorted(layer, key=position.__getitem__)) for layer in result)


def supplier_layers(manifest: Manifest) -> tuple[tuple[Dependency, ...], ...]:
    """The order in which an orchestrator creates a service's suppliers.

    A supplier whose attributes are another's input comes first. Suppliers whose inputs form a cycle start together and get their
    inputs afterwards.

    Args:
        manifest: the service's.
    """
    by_type = {dependency.type: dependency for dependency in manifest.dependencies}
    edges = {name: [taken.supplier for taken in dependency.inputs] for name, dependency in by_type.items()}
    return tuple(tuple(by_type[name] for name in layer) for layer in layers(edges))


class ServiceGraph:
    """The service template graph of the given manifests. Services without a manifest are its leaves.

    Args:
        manifests: one per service type.

    Raises:
        DocumentError: two manifests describe one type, or instances would create one another endlessly. The text names
            every such cycle.
    """

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self.manifests: dict[str, Manifest] = {}
        problems: list[Problem] = []
        for manifest in manifests:
            other = self.manifests.setdefault(manifest.type, manifest)
            if other is not manifest:
                message = f"{manifest.type} is described by {other.source.file} too"
                problems.append(manifest.source.problem(("service_type",), message, "keep one of them"))
        self._creates: dict[str, tuple[str, ...]] = {}
        for manifest in self.manifests.values():
            created = tuple(needed.type for needed in manifest.dependencies if _creates_one(manifest, needed))
            self._creates[manifest.type] = created
            for needed in manifest.dependencies:
                if needed.type not in self.manifests:
                    self._creates[needed.type] = ()
        problems.extend(self._cycles())
        if problems:
            raise DocumentError(problems)

    def edges(self) -> dict[str, tuple[str, ...]]:
        """For every service, those of which its orchestrator creates an instance."""
        return dict(self._creates)

    def layers(self) -> tuple[tuple[str, ...], ...]:
        """All services in layers, each of which depends only on earlier ones."""
        return layers(self._creates)

    def needs(self, service: str) -> frozenset[str]:
        """Every service of which an instance is created, directly or not, for one of this service.

        Raises:
            KeyError: the graph does not contain the service.
        """
        found: set[str] = set()
        todo = list(self._creates[service])
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(self._creates[name])
        return frozenset(found)

    def problems(self, *dependents: str) -> list[Problem]:
        """Inputs, attributes and bindings that contradict the given manifests.

        Args:
            dependents: types of the services whose `depends_on` is checked; without any, all of them.

        Raises:
            KeyError: there is no manifest of such a service.
        """
        found: list[Problem] = []
        for manifest in [self.manifests[each] for each in dependents or self.manifests]:
            for index, needed in enumerate(manifest.dependencies):
                found.extend(self._dependency_problems(manifest, needed, ("depends_on", index, needed.type)))
        return found

    def _dependency_problems(self, manifest: Manifest, needed: Dependency, path: Path) -> Iterable[Problem]:
        source = manifest.source
        dependent = self.manifests.get(needed.type)
        for index, taken in enumerate(needed.inputs):
            here = (*path, "inputs", index)
            supplier = self.manifests.get(taken.supplier)
            if supplier is not None and not _offers(supplier, taken.attribute):
                message = f"{taken.supplier} has no attribute {taken.attribute}"
                remedy = f"take one of {listed(supplier.attributes)}, or declare it in the service_attributes of that service"
                yield source.problem(here, message, remedy)
            if dependent is not None:
                yield from self._written(dependent, taken.target, manifest, here)
        if dependent is None:
            return
        for name, value in needed.attributes.items():
            here = (*path, "attributes", name)
            yield from self._written(dependent, name, manifest, here)
            declared = dependent.attributes.get(name)
            # A reference has a value only when an instance is created.
            if declared is not None and not (isinstance(value, str) and "${" in value):
                fault = declared.misfit(value)
                if fault is not None:
                    form = f" that fits {json.dumps(declared.pattern.schema())}" if declared.pattern is not None else ""
                    yield source.problem(here, fault, f"write a value of type {declared.type}{form}")
        if needed.binding is None or needed.binding.id is None:
            given = set(needed.attributes) | {taken.target for taken in needed.inputs}
            for name, declared in dependent.attributes.items():
                if declared.required and name not in given:
                    yield source.problem(
                        path, f"{needed.type} requires {name}", "give it under attributes or inputs", key=True
                    )

    @staticmethod
    def _written(dependent: Manifest, name: str, manifest: Manifest, path: Path) -> Iterable[Problem]:
        declared = dependent.attributes.get(name)
        if declared is None:
            message = f"{dependent.type} has no attribute {name}"
            remedy = (
                f"name one of {listed(dependent.attributes)}, or declare it in the service_attributes of that service"
            )
            yield manifest.source.problem(path, message, remedy)
        elif not declared.writable:
            remedy = f"remove it, name another, or make it mutable in the manifest of {dependent.type}"
            yield manifest.source.problem(path, f"{name} of {dependent.type} is immutable", remedy)

    def _cycles(self) -> Iterable[Problem]:
        for group in strong_components(self._creates):
            if len(group) == 1 and group[0] not in self._creates[group[0]]:
                continue
            cycle = self._cycle_in(frozenset(group))
            manifest = self.manifests[cycle[0]]
            named = [needed.type for needed in manifest.dependencies]
            index = named.index(cycle[1])
            message = f"instances would create one another endlessly: {' → '.join(cycle)}"
            remedy = "bind one of them to an instance that exists, or remove an entry"
            yield manifest.source.problem(("depends_on", index, cycle[1]), message, remedy, key=True)

    def _cycle_in(self, group: frozenset[str]) -> list[str]:
        # Within a strongly connected component, a walk that stays inside it returns to an earlier node.
        node = min(group)
        walk: list[str] = []
        while node not in walk:
            walk.append(node)
            node = next(child for child in self._creates[node] if child in group)
        return [*walk[walk.index(node) :], node]


def _offers(supplier: Manifest, attribute: str) -> bool:
    """Whether a supplier declares an attribute, or the platform sets it."""
    # Over several regions an output is shown as `<name>.<region>`.
    regional = any(attribute == f"{name}.{region}" for name in supplier.attributes for region in supplier.resources)
    return attribute in supplier.attributes or regional or attribute.lower().startswith(RESERVED_PREFIXES)


def _creates_one(manifest: Manifest, needed: Dependency) -> bool:
    binding = needed.binding
    if binding is None:
        return True
    if binding.parameter is None:
        return False
    # If the tenant may omit the parameter, an instance may be created after all.
    return not manifest.attributes[binding.parameter].required
