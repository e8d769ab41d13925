"""How many there are of a node: `count` of an `OS::Heat::ResourceGroup`, `desired_capacity` of an `OS::Heat::AutoScalingGroup`.

A group that scales says its bounds itself (`min_size`, `max_size`), or by the `range` constraint of the parameter that its
count is taken from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from ..interface import DeployError
from .parameters import declared

_COUNTS: Final = {"OS::Heat::ResourceGroup": "count", "OS::Heat::AutoScalingGroup": "desired_capacity"}
_GROUPS: Final = " or ".join(_COUNTS)
#: Of a group without bounds of its own.
_MOST: Final = 1000


def with_counts(
    template: Mapping[str, Any], counts: Mapping[str, int], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """The template with these counts in its groups; those that the template has no longer do not matter."""
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
    """The counts after scaling a node. Raises DeployError where it does not scale, or not so far."""
    group = _group(template, node)
    if group is None:
        raise DeployError(f"{node[:60]!r} is no resource of the template that scales; make it an {_GROUPS}")
    low, high = _bounds(template, group, parameters)
    if count is None:
        present = counts.get(node)
        if present is None:
            present = _whole(template, _properties(group).get(_COUNTS[group["type"]]), parameters, default=max(low, 1))
        count = present + (by or 0)
    if not low <= count <= high:
        raise DeployError(f"{node} has {low} to {high} instances; {count} is not among them")
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
    """A number that stands in the template, or in a parameter that it names."""
    if isinstance(value, dict) and isinstance(value.get("get_param"), str):
        name = value["get_param"]
        value = parameters.get(name, declared(template).get(name, {}).get("default"))
    try:
        return default if value is None else int(value)
    except (TypeError, ValueError):
        return default
