"""The resources of a stack as Heat tells them, nested ones too, each by its way down: `web.0.server`."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from heatclient.v1.client import Client

from ..interface import StackResource

#: Stacks inside one another that are looked into; Heat allows five.
DEPTH: Final = 5
_SHOWN_FAILURES: Final = 3
#: Seconds after which a deletion that Heat shows as in progress is told again.
_STALLED: Final = 300.0
#: What OCCI has a word for, by type without its first part (`OS`, `AWS`).
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
class Found:
    """A resource: by its way down, and by its own name in the stack (`name/id`) that it is in."""

    path: str
    name: str
    stack: str
    type: str
    id: str
    state: str
    reason: str


def resources_of(client: Client, stack: str) -> list[Found]:
    """All resources of a stack (`name/id`), those that hold others before what they hold."""
    listed: list[Any] = client.resources.list(stack, nested_depth=DEPTH)
    places = {_link(each, "nested"): each for each in listed if _link(each, "nested")}

    def way(each: Any) -> str:
        holder = places.get(_link(each, "stack"))
        return each.resource_name if holder is None else f"{way(holder)}.{each.resource_name}"

    found = [
        Found(
            way(each),
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


def moment(client: Client, stack: str) -> str:
    """A digest of how far all resources of a stack (`name/id`) are: as long as it stays, nothing has moved in it."""
    listed: list[Any] = client.resources.list(stack, nested_depth=DEPTH)
    seen = [
        (_link(each, "stack"), each.resource_name, each.resource_status, each.physical_resource_id, each.updated_time)
        for each in listed
    ]
    return hashlib.sha256(json.dumps(sorted(seen, key=repr)).encode()).hexdigest()[:16]


def is_deletion_stalled(stack: Any, now: float) -> bool:
    """Whether a deletion that is in progress is to be told again: its engine may have died, and Heat does not say so.

    Heat writes down when it was told, so that nothing has to be remembered here.

    Args:
        now: seconds since the epoch.
    """
    told = str(stack.updated_time or stack.creation_time)
    return now - seconds(told) >= _STALLED


def seconds(time_of_heat: str) -> float:
    """A time as Heat writes it, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(time_of_heat.replace("Z", "+00:00")).timestamp()


def locate(client: Client, stack: str, path: str) -> Found | None:
    """The resource at a way down."""
    return next((each for each in resources_of(client, stack) if each.path == path), None)


def shown(found: Sequence[Found]) -> list[StackResource]:
    """As the port tells them."""
    return [
        StackResource(each.path, each.type, each.id, each.state, _KINDS.get(each.type.partition("::")[2], ""))
        for each in found
    ]


def failures(found: Sequence[Found]) -> str:
    """Why resources failed, each with its name; of those that hold a failed one, that one alone."""
    failed = [each for each in found if each.state.endswith("_FAILED") and each.reason]
    deepest = [each for each in failed if not any(other.path.startswith(f"{each.path}.") for other in failed)]
    # What was stopped because another failed tells nothing.
    own = [each for each in deepest if "aborted" not in each.reason] or deepest
    return "; ".join(f"{each.path}: {each.reason}" for each in own[:_SHOWN_FAILURES])


def _link(each: Any, rel: str) -> str:
    """`name/id` of a linked stack."""
    for link in each.links or ():
        if link.get("rel") == rel:
            return str(link["href"].partition("/stacks/")[2])
    return ""
