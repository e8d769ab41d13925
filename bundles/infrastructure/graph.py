"""Dependencies as a small directed graph: order, reach and cycles."""

from __future__ import annotations

from collections.abc import Mapping

#: A node's name and the names it depends on.
Graph = Mapping[str, frozenset[str]]


def cycle(graph: Graph) -> tuple[str, ...] | None:
    """Return one cycle as the names along it, first and last the same; None if there is none."""
    done: set[str] = set()
    for root in graph:
        path: list[str] = []
        ahead: list[tuple[str, bool]] = [(root, False)]
        while ahead:
            name, leaving = ahead.pop()
            if leaving:
                path.pop()
                done.add(name)
                continue
            if name in path:
                return (*path[path.index(name) :], name)
            if name in done:
                continue
            path.append(name)
            ahead.append((name, True))
            ahead.extend((needed, False) for needed in sorted(graph.get(name, ()), reverse=True))
    return None


def ordered(graph: Graph) -> list[str]:
    """Return the names in dependency order, otherwise in their given order; the graph has no cycle."""
    order: list[str] = []
    placed: set[str] = set()
    for root in graph:
        ahead = [root]
        while ahead:
            name = ahead[-1]
            missing = [needed for needed in sorted(graph.get(name, ()), reverse=True) if needed not in placed]
            if missing:
                ahead.extend(missing)
                continue
            ahead.pop()
            if name not in placed:
                placed.add(name)
                order.append(name)
    return order


def before(graph: Graph, name: str) -> frozenset[str]:
    """Return all dependencies of `name`, direct and indirect."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        for needed in graph.get(ahead.pop(), ()):
            if needed not in found:
                found.add(needed)
                ahead.append(needed)
    return frozenset(found)
