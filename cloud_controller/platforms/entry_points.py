"""Platforms and node resources are found by entry point, so that someone else's is a package, not a patch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from .interface import DeployError

__all__ = ["NODE_RESOURCES", "PLATFORMS", "loaded", "node_resources", "offered"]

#: Entry point groups.
PLATFORMS = "archelon.platforms"
NODE_RESOURCES = "archelon.node_resources"


def node_resources(platform: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """What makes nodes on a platform, by the resource's type: its own, and what other packages offer.

    Each is called with what that platform makes nodes with. An offered one says whose it is by an attribute `platform`; one
    without it is the local platform's.

    Raises:
        DeployError: a package offers a type under a name of the platform's own; or see `offered` and `loaded`.
    """
    found = dict(own)
    for name, entry in offered(NODE_RESOURCES).items():
        factory = loaded(entry)
        if getattr(factory, "platform", "local") != platform:
            continue
        if name in own:
            raise DeployError(
                f"the platform {platform} has {name!r} itself; remove the package that offers {entry.value}"
            )
        found[name] = factory
    return found


def offered(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of a group, by name; none is imported yet, since what it needs may be an extra that nobody asked for.

    Raises:
        DeployError: two packages offer the same name.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=group):
        if entry.name in found:
            raise DeployError(f"two packages offer {entry.name!r} in {group}; remove one of them")
        found[entry.name] = entry
    return found


def loaded(entry: importlib.metadata.EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        DeployError: it cannot be imported; the text names the extra to install, where its package has one of this name.
    """
    try:
        return entry.load()
    except ImportError as problem:
        remedy = "repair or remove its package"
        if entry.dist is not None and entry.name in (entry.dist.metadata.get_all("Provides-Extra") or ()):
            remedy = f"install {entry.dist.name}[{entry.name}]"
        raise DeployError(f"{entry.name!r} in {entry.group} cannot be imported: {problem}; {remedy}") from problem
