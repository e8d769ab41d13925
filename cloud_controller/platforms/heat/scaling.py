"""Instance counts of nodes: `count` of an `OS::Heat::ResourceGroup`, `desired_capacity` of an `OS::Heat::AutoScalingGroup`.

A group's bounds are its own (`min_size`, `max_size`), or the `range` constraint of the parameter that sets its count.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from ..interface import DeployError
from .parameters import declared

_COUNTS: Final = {"OS::Heat::ResourceGroup": "count", "OS::Heat::AutoScalingGroup": "desired_capacity"}
_GROUPS: Final = " or ".join(_COUNTS)
#: Upper bound of a group without one.
_MOST: Final = 1000


def with_counts(
    template: Mapping[str, Any], counts: Mapping[str, int], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the template with these counts in its groups; counts of removed groups are ignored."""
    changed = copy.deepcopy(dict(template))
    for node, count in counts.items():
        group = _group(changed, node)
        if group is not None:
            low, high = _bounds(changed, group, parameters)
            group.setdefault("properties", {})[_COUNTS[group["type"]]] = min(max(count, low), high)
    return changed


def scaled(
    template: Mapping[str, Any],
    counts: Mapping[str, int],
    node: str,
    *,
    parameters: Mapping[str, Any],
    count: int | None,
    by: int | None,
) -> Mapping[str, int]:
    """Return the counts after scaling a node. Raises DeployError if it does not scale, or not to this count."""
    group = _group(template, node)
    if group is None:
        raise DeployError(f"{node[:60]!r} is not a scalable resource of the template; make it an {_GROUPS}")
    low, high = _bounds(template, group, parameters)
    if count is None:
        present = counts.get(node)
        if present is None:
            present = _whole(template, _properties(group).get(_COUNTS[group["type"]]), parameters, default=max(low, 1))
        count = present + (by or 0)
    if not low <= count <= high:
        raise DeployError(f"{node} has {low} to {high} instances; {count} is out of range")
    return {**counts, node: count}


def _group(template: Mapping[str, Any], node: str) -> Any:
    resources = template.get("resources")
    found = resources.get(node) if isinstance(resources, dict) else None
    return found if isinstance(found, dict) and found.get("type") in _COUNTS else None


def _properties(group: Mapping[str, Any]) -> Mapping[str, Any]:
    found = group.get("properties")
    return found if isinstance(found, dict) else {}


def _bounds(template: Mapping[str, Any], group: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[int, int]:
    properties = _properties(group)
    if group["type"] == "OS::Heat::AutoScalingGroup":
        low = _whole(template, properties.get("min_size"), parameters, default=0)
        return low, _whole(template, properties.get("max_size"), parameters, default=_MOST)
    of = properties.get("count")
    if isinstance(of, dict) and isinstance(of.get("get_param"), str):
        schema = declared(template).get(of["get_param"], {})
        for constraint in schema.get("constraints") or ():
            bounds = constraint.get("range") if isinstance(constraint, dict) else None
            if isinstance(bounds, dict):
                return int(bounds.get("min", 0)), int(bounds.get("max", _MOST))
    return 0, _MOST


def _whole(template: Mapping[str, Any], value: Any, parameters: Mapping[str, Any], *, default: int) -> int:
    """Return a number from the template, or from the parameter that it references."""
    if isinstance(value, dict) and isinstance(value.get("get_param"), str):
        name = value["get_param"]
        value = parameters.get(name, declared(template).get(name, {}).get("default"))
    try:
        return default if value is None else int(value)
    except (TypeError, ValueError):
        return default
