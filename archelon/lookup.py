"""Resolves names from the command line.

A service is named by its term or type, an instance by its path, its id or a prefix of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from archelon_api import service_manager as wire
from occi_service import client

from .errors import CommandError, Status

if TYPE_CHECKING:
    from occi_service.client import CategoryDocument

_SHORTEST: Final = 4


def services(service_manager: client.Client) -> list[CategoryDocument]:
    """Return the kinds that can be ordered: those whose instances have a lifecycle."""
    found = [each for each in service_manager.categories() if each.category_class == "kind"]
    return [each for each in found if wire.STATE in each.attributes]


def service_named(service_manager: client.Client, name: str) -> CategoryDocument:
    """Return the service of this term or type. Raises CommandError."""
    known = services(service_manager)
    for each in known:
        if name in (each.term, each.type_id):
            return each
    terms = ", ".join(sorted([each.term for each in known]))
    remedy = f"expected one of {terms}" if terms else "publish one with `archelon publish`"
    raise CommandError(f"there is no service {name!r}; {remedy}", status=Status.NOT_FOUND)


def instance_at(service_manager: client.Client, name: str) -> str:
    """Return the path of the instance with this name. Raises CommandError if none or several match."""
    stripped = name.strip("/")
    if stripped.count("/") == 1:
        return f"/{stripped}"
    if len(stripped) < _SHORTEST or "/" in stripped:
        raise CommandError(
            f"{name!r} names no instance; give its path, its id, or the first {_SHORTEST} or more characters of its id",
            status=Status.USAGE,
        )
    found = [path for path in _paths(service_manager) if path.rpartition("/")[2].startswith(stripped)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(
            f"{name!r} is ambiguous: {', '.join(found[:5])}; give more characters", status=Status.CONFLICT
        )
    raise CommandError(f"there is no instance {name!r} that you may see", status=Status.NOT_FOUND)


def _paths(service_manager: client.Client) -> Iterator[str]:
    for service in services(service_manager):
        if service.location:
            yield from service_manager.locations(service.location)


def action_of(entity: client.Entity, term: str) -> str:
    """Return the type of an action that is currently applicable to an instance. Raises CommandError."""
    for each in entity.actions:
        if each.rpartition("#")[2] == term:
            return each
    applicable = ", ".join([each.rpartition("#")[2] for each in entity.actions]) or "none"
    state = entity.attributes.get(wire.STATE)
    raise CommandError(f"{term!r} does not apply in state {state}; applicable: {applicable}", status=Status.CONFLICT)
