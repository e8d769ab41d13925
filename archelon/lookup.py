"""Resolves names from the command line.

A service is named by its term or type, an instance by its URL, its path, its id or a prefix of it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from archelon_api import names
from archelon_api import service_manager as wire
from occi_service import client

from .errors import CommandError, Status

if TYPE_CHECKING:
    from occi_service.client import CategoryDocument

_SHORTEST: Final = 4
#: Length in characters of a whole id, a UUID.
_WHOLE: Final = 36
#: Type identifier of the kind of all resources (GFD.221, 4.7.2).
_RESOURCE: Final = "http://schemas.ogf.org/occi/core#resource"
#: Locations per request: the largest page that the service manager returns.
_PAGE: Final = 1000


def services(service_manager: client.Client) -> list[CategoryDocument]:
    """Return the kinds that can be ordered: those whose instances have a lifecycle."""
    found = [each for each in service_manager.categories() if each.category_class == "kind"]
    return [each for each in found if wire.STATE in each.attributes]


def is_withdrawn(service: CategoryDocument) -> bool:
    """Return whether a service takes no more orders."""
    return wire.WITHDRAWN in service.attributes


def service_named(service_manager: client.Client, name: str) -> CategoryDocument:
    """Return the service of this term or type. Raises CommandError."""
    known = services(service_manager)
    for each in known:
        if name in (each.term, each.type_id):
            return each
    terms = ", ".join(sorted([each.term for each in known]))
    remedy = f"expected one of {terms}" if terms else "publish one with `archelon publish`"
    raise CommandError(f"there is no service {name!r}; {remedy}", status=Status.NOT_FOUND)


def instances(
    service_manager: client.Client, *, service: str | None = None, attributes: Mapping[str, Any] | None = None
) -> Iterator[client.Entity]:
    """Iterate over the caller's instances of all services, or of one: a request for every hundred of them.

    Args:
        service: term or type.
        attributes: values that each of them has.
    """
    # What else a tenant has, such as records, has no state of this name.
    wanted = {wire.STATE: client.ANY, **(attributes or {})}
    collection, kinds = (wire.location_of(service), []) if service is not None else ("/", [_RESOURCE])
    for entity in service_manager.list(collection, categories=kinds, attributes=wanted):
        if service in (None, entity.kind, entity.kind.rpartition("#")[2]):
            yield entity


def instance_at(service_manager: client.Client, name: str) -> str:
    """Return the path of the instance with this name: its URL, path, id, or the first characters of its id.

    Raises:
        CommandError: none or several match.
    """
    path = _path_in(service_manager, name)
    if path is not None:
        return path
    found = [entity.location for entity in instances(service_manager) if _is_named(entity, name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(
            f"{name!r} is ambiguous: {', '.join(found[:5])}; give more characters", status=Status.CONFLICT
        )
    raise CommandError(f"there is no instance {name!r} that you may see", status=Status.NOT_FOUND)


def instance_id(service_manager: client.Client, name: str) -> str:
    """Return the id of the instance with this name: of the caller's tenant or, for an operator, of any.

    Raises:
        CommandError: none or several match.
    """
    from .operator import of_all_tenants

    path = _path_in(service_manager, name)
    found: list[str] = []
    with contextlib.suppress(client.NotFoundError):
        own = [service_manager.get(path)] if path is not None else instances(service_manager)
        found = [str(each.attributes.get(names.INSTANCE)) for each in own if path is not None or _is_named(each, name)]
    if not found:
        # Others than operators may not list them.
        with contextlib.suppress(client.ForbiddenError):
            found = [
                each["id"]
                for each in of_all_tenants(service_manager)
                if each["path"] == path or (path is None and each["id"].startswith(name))
            ]
    if len(found) > 1:
        raise CommandError(f"{name!r} is ambiguous: {', '.join(found[:5])}; give the id", status=Status.CONFLICT)
    if found:
        return found[0]
    last = name.rpartition("/")[2]
    if len(last) == _WHOLE:
        # A provider may know the id of an instance that the service manager does not show to it.
        return last
    raise CommandError(f"there is no instance {name!r} that you may see", status=Status.NOT_FOUND)


def record_of(service_manager: client.Client, name: str) -> client.Entity:
    """Return the record of the instance with this name, which outlives it; of several at one path, the last one.

    Raises:
        CommandError: none or several match.
    """
    path = _path_in(service_manager, name)
    records = wire.RECORD.location
    # Locations alone: a record may be long.
    listed = functools.partial(service_manager.using(rendering="text/uri-list").locations, records, number=_PAGE)
    if path is not None:
        ended = list(listed(attributes={"occi.core.title": path}))
        if not ended:
            raise CommandError(f"there is no history of {name!r}", status=Status.NOT_FOUND)
        return service_manager.get(ended[-1])
    if len(name) == _WHOLE:
        with contextlib.suppress(client.NotFoundError):
            return service_manager.get(f"{records}{name}")
    present = [entity for entity in instances(service_manager) if _is_named(entity, name)]
    ids = list(dict.fromkeys([str(entity.attributes.get(names.INSTANCE)) for entity in present]))
    if not ids:
        ids = [each.removeprefix(records) for each in listed() if each.startswith(f"{records}{name}")]
    if len(ids) > 1:
        raise CommandError(f"{name!r} is ambiguous: {', '.join(ids[:5])}; give more characters", status=Status.CONFLICT)
    if not ids:
        raise CommandError(f"there is no instance {name!r} that you may see", status=Status.NOT_FOUND)
    try:
        return service_manager.get(f"{records}{ids[0]}")
    except client.NotFoundError:
        raise CommandError(f"there is no history of {name!r}", status=Status.NOT_FOUND) from None


def _path_in(service_manager: client.Client, name: str) -> str | None:
    """Return the path that a name is, or None for an id or its beginning. Raises CommandError if it is none of these."""
    if "://" in name:
        try:
            name = service_manager.path(name)
        except ValueError as error:
            raise CommandError(
                f"{name!r} names no instance of this service manager: {error}", status=Status.USAGE
            ) from None
    stripped = name.strip("/")
    if stripped.count("/") == 1:
        return f"/{stripped}"
    if len(stripped) < _SHORTEST or "/" in name:
        raise CommandError(
            f"{name!r} names no instance; give its URL, its path, its id, or the first {_SHORTEST} or more characters of "
            "its id",
            status=Status.USAGE,
        )
    return None


def _is_named(entity: client.Entity, beginning: str) -> bool:
    # At a path of one's own, the path's last part is not the id; either names the instance.
    return any(
        each.startswith(beginning)
        for each in (str(entity.attributes.get(names.INSTANCE) or ""), entity.location.rpartition("/")[2])
    )


def action_of(entity: client.Entity, term: str) -> str:
    """Return the type of an action that is currently applicable to an instance. Raises CommandError."""
    for each in entity.actions:
        if each.rpartition("#")[2] == term:
            return each
    applicable = ", ".join([each.rpartition("#")[2] for each in entity.actions]) or "none"
    state = entity.attributes.get(wire.STATE)
    raise CommandError(f"{term!r} does not apply in state {state}; applicable: {applicable}", status=Status.CONFLICT)
