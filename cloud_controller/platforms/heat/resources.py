"""The resources of a stack, including nested ones, each by its path: `web.0.server`."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from heatclient.v1.client import Client

from ..interface import StackResource

#: Depth of nested stacks to list; Heat allows five.
DEPTH: Final = 5
_SHOWN_FAILURES: Final = 3
#: Seconds after which a deletion in progress is requested again.
_STALLED: Final = 300.0
#: OCCI's kinds, by Heat's type without its first part (`OS`, `AWS`).
_KINDS: Final = {
    "Nova::Server": "compute",
    "EC2::Instance": "compute",
    "Neutron::Net": "network",
    "Neutron::ProviderNet": "network",
    "EC2::VPC": "network",
    "Cinder::Volume": "storage",
    "EC2::Volume": "storage",
    "Manila::Share": "storage",
}


@dataclass(frozen=True)
class FoundResource:
    """A resource, by its path and by its own name in its stack (`name/id`)."""

    path: str
    name: str
    stack: str
    type: str
    id: str
    state: str
    reason: str


def resources_of(client: Client, stack: str) -> list[FoundResource]:
    """Return all resources of a stack (`name/id`), parents before children."""
    listed: list[Any] = client.resources.list(stack, nested_depth=DEPTH)
    parents = {_link(each, "nested"): each for each in listed if _link(each, "nested")}

    def path_of(each: Any) -> str:
        parent = parents.get(_link(each, "stack"))
        return each.resource_name if parent is None else f"{path_of(parent)}.{each.resource_name}"

    found = [
        FoundResource(
            path_of(each),
            each.resource_name,
            _link(each, "stack"),
            each.resource_type,
            each.physical_resource_id or "",
            each.resource_status,
            each.resource_status_reason or "",
        )
        for each in listed
    ]
    return sorted(found, key=lambda each: each.path)


def progress_digest(client: Client, stack: str) -> str:
    """Return a digest of the state of all resources of a stack (`name/id`); it changes with any progress."""
    listed: list[Any] = client.resources.list(stack, nested_depth=DEPTH)
    seen = [
        (_link(each, "stack"), each.resource_name, each.resource_status, each.physical_resource_id, each.updated_time)
        for each in listed
    ]
    return hashlib.sha256(json.dumps(sorted(seen, key=repr)).encode()).hexdigest()[:16]


def is_deletion_stalled(stack: Any, now: float) -> bool:
    """Whether to repeat a deletion in progress, whose engine may have died unnoticed by Heat.

    Args:
        now: seconds since the epoch.
    """
    return now - seconds(str(stack.updated_time or stack.creation_time)) >= _STALLED


def seconds(timestamp: str) -> float:
    """Convert a timestamp of Heat to seconds since the epoch."""
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def locate(client: Client, stack: str, path: str) -> FoundResource | None:
    """Return the resource at a path."""
    return next((each for each in resources_of(client, stack) if each.path == path), None)


def shown(found: Sequence[FoundResource]) -> list[StackResource]:
    """Convert resources to the platform interface's."""
    return [
        StackResource(each.path, each.type, each.id, each.state, _KINDS.get(each.type.partition("::")[2], ""))
        for each in found
    ]


def failures(found: Sequence[FoundResource]) -> str:
    """Return the reasons of failed resources, each with its path, without parents of failed resources."""
    failed = [each for each in found if each.state.endswith("_FAILED") and each.reason]
    deepest = [each for each in failed if not any(other.path.startswith(f"{each.path}.") for other in failed)]
    # Resources aborted because of another failure are not informative.
    own = [each for each in deepest if "aborted" not in each.reason] or deepest
    return "; ".join(f"{each.path}: {each.reason}" for each in own[:_SHOWN_FAILURES])


def _link(each: Any, rel: str) -> str:
    """Return `name/id` of a linked stack."""
    for link in each.links or ():
        if link.get("rel") == rel:
            return str(link["href"].partition("/stacks/")[2])
    return ""
