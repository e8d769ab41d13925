"""Graphs of services: what depends on what, what may start at once, and what cannot work.

The service template graph (STG) is made of manifests. An edge says "making an instance of this service makes one of that";
a cycle of such edges would never end and is refused by name. Inputs are edges of another kind: they are written once both
ends are up, so they may go round in circles, and only order the suppliers where they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from archelon_core.documents.problems import DocumentError, Path, Problem, listed

from .manifest import Dependency, Manifest

Name = TypeVar("Name", bound=str)


def strong_components(edges: Mapping[Name, Iterable[Name]]) -> list[tuple[Name, ...]]:
    """The groups of nodes that reach one another, what is depended on before what depends on it (Tarjan, iteratively).

    Args:
        edges: for every node those that it depends on. Every node is a key.
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
    """What may start at once: every layer needs only those before it, or members of its own circle.

    Args:
        edges: for every node those that it depends on. Every node is a key.
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
    """The order in which an orchestrator brings up a service's suppliers.

    A supplier whose attributes are another's input comes before it. Those whose inputs go round in a circle start
    together and get their inputs afterwards.

    Args:
        manifest: the service's.
    """
    by_type = {dependency.type: dependency for dependency in manifest.dependencies}
    edges = {name: [taken.supplier for taken in dependency.inputs] for name, dependency in by_type.items()}
    return tuple(tuple(by_type[name] for name in layer) for layer in layers(edges))


class ServiceGraph:
    """The service template graph of manifests that are at hand. Services that are only named are its leaves.

    Args:
        manifests: one a service type.

    Raises:
        DocumentError: two manifests describe one type, or making an instance would make another of itself. Every
            such circle is named.
    """

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self.manifests: dict[str, Manifest] = {}
        problems: list[Problem] = []
        for manifest in manifests:
            other = self.manifests.setdefault(manifest.type, manifest)
            if other is not manifest:
                message = f"{manifest.type} is described by {other.source.file} too"
                problems.append(manifest.source.problem(("service_type",), message, "keep one of them"))
        self._makes: dict[str, tuple[str, ...]] = {}
        for manifest in self.manifests.values():
            made = tuple(needed.type for needed in manifest.dependencies if _makes_one(manifest, needed))
            self._makes[manifest.type] = made
            for needed in manifest.dependencies:
                if needed.type not in self.manifests:
                    self._makes[needed.type] = ()
        problems.extend(self._cycles())
        if problems:
            raise DocumentError(problems)

    def edges(self) -> dict[str, tuple[str, ...]]:
        """For every service those of which its orchestrator makes an instance."""
        return dict(self._makes)

    def layers(self) -> tuple[tuple[str, ...], ...]:
        """All services, each layer needing only those before it."""
        return layers(self._makes)

    def needs(self, service: str) -> frozenset[str]:
        """Every service of which an instance is made, directly or not, for one of this service.

        Raises:
            KeyError: the graph does not hold the service.
        """
        found: set[str] = set()
        todo = list(self._makes[service])
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(self._makes[name])
        return frozenset(found)

    def problems(self) -> list[Problem]:
        """Inputs, attributes and bindings that the manifests at hand show to be wrong."""
        found: list[Problem] = []
        for manifest in self.manifests.values():
            for index, needed in enumerate(manifest.dependencies):
                found.extend(self._dependency_problems(manifest, needed, ("depends_on", index, needed.type)))
        return found

    def _dependency_problems(self, manifest: Manifest, needed: Dependency, path: Path) -> Iterable[Problem]:
        source = manifest.source
        dependent = self.manifests.get(needed.type)
        for index, taken in enumerate(needed.inputs):
            here = (*path, "inputs", index)
            supplier = self.manifests.get(taken.supplier)
            if supplier is not None and taken.attribute not in supplier.attributes:
                message = f"{taken.supplier} has no attribute {taken.attribute}"
                yield source.problem(here, message, f"there are {listed(supplier.attributes)}")
            if dependent is not None:
                yield from self._written(dependent, taken.target, manifest, here)
        if dependent is None:
            return
        for name, value in needed.attributes.items():
            here = (*path, "attributes", name)
            yield from self._written(dependent, name, manifest, here)
            declared = dependent.attributes.get(name)
            # A reference's value is known only when an instance is made.
            if declared is not None and not (isinstance(value, str) and "${" in value):
                fault = declared.misfit(value)
                if fault is not None:
                    yield source.problem(here, fault, f"see {name} in {dependent.source.file}")
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
            yield manifest.source.problem(path, message, f"there are {listed(dependent.attributes)}")
        elif not declared.writable:
            remedy = f"make it mutable in {dependent.source.file}, or name another"
            yield manifest.source.problem(path, f"{name} of {dependent.type} is immutable", remedy)

    def _cycles(self) -> Iterable[Problem]:
        for group in strong_components(self._makes):
            if len(group) == 1 and group[0] not in self._makes[group[0]]:
                continue
            cycle = self._cycle_in(frozenset(group))
            manifest = self.manifests[cycle[0]]
            named = [needed.type for needed in manifest.dependencies]
            index = named.index(cycle[1])
            message = f"instances would make one another without end: {' → '.join(cycle)}"
            remedy = "bind one of them to an instance that exists, or remove an entry"
            yield manifest.source.problem(("depends_on", index, cycle[1]), message, remedy, key=True)

    def _cycle_in(self, group: frozenset[str]) -> list[str]:
        # Within a strong component a walk that stays inside it comes back to where it was.
        node = min(group)
        way: list[str] = []
        while node not in way:
            way.append(node)
            node = next(child for child in self._makes[node] if child in group)
        return [*way[way.index(node) :], node]


def _makes_one(manifest: Manifest, needed: Dependency) -> bool:
    binding = needed.binding
    if binding is None:
        return True
    if binding.parameter is None:
        return False
    # Where the tenant may leave the parameter out, an instance is made after all.
    return not manifest.attributes[binding.parameter].required
