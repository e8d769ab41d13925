"""Platforms and node resources, found by entry point, so that a third party's is a package, not a patch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from .interface import DeployError

#: Entry point groups.
PLATFORMS = "archelon.platforms"
NODE_RESOURCES = "archelon.node_resources"


def node_resources(platform: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the factories of nodes on a platform, by resource type: its own, and those of other packages.

    Each takes the arguments that the platform defines. Another package's factory names its platform in an attribute `platform`;
    without one it is for the local platform.
    Raises DeployError if a package provides a type under a name of the platform's own; see also `offered` and `loaded`.
    """
    found = dict(own)
    for name, entry in offered(NODE_RESOURCES).items():
        factory = loaded(entry)
        if getattr(factory, "platform", "local") != platform:
            continue
        if name in own:
            raise DeployError(f"the platform {platform} has its own {name!r}; remove the package of {entry.value}")
        found[name] = factory
    return found


def offered(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Return the entry points of a group, by name, without importing any. Raises DeployError for a duplicate name."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=group):
        if entry.name in found:
            raise DeployError(f"two packages provide {entry.name!r} in {group}; remove one of them")
        found[entry.name] = entry
    return found


def loaded(entry: importlib.metadata.EntryPoint) -> Any:
    """Import the object of an entry point. Raises DeployError, which names the extra to install, if there is one."""
    try:
        return entry.load()
    except ImportError as problem:
        remedy = "repair or remove its package"
        if entry.dist is not None and entry.name in (entry.dist.metadata.get_all("Provides-Extra") or ()):
            remedy = f"install {entry.dist.name}[{entry.name}]"
        raise DeployError(f"{entry.name!r} in {entry.group} cannot be imported: {problem}; {remedy}") from problem
