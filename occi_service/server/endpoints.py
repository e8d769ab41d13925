"""The three kinds of path that OCCI has (GFD.223): an entity, a collection, the query interface. One Falcon resource each.

Each method reads the request, calls `workflow` inside the registry's unit of work, and shows the outcome. In a unit of work
others wait for their turn to write: the request is parsed before it, and the answer rendered after it. The cells of
the protocol's method table are the methods here; what a collection cannot do is refused with 405 and the methods that
it can.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import falcon
from occi.backend import UserDefinedMixinBackend
from occi.core_model import Action, Category, Entity, Kind, Mixin

from archelon_core.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    HttpError,
    MethodNotAllowedError,
    NotFoundError,
    PreconditionFailedError,
    TooLargeError,
    shown,
)

from ..model import CORE_KINDS, type_id
from ..registry.base import Page, Selection
from . import backends as workflow
from . import parsing
from .request import Answer, Exchange, Service, names_any

_ENTITY_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
_KIND_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "POST")
_MIXIN_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
_PATH_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST")
_CHANGING: Final = frozenset(("DELETE", "POST", "PUT"))
#: The last page that can be asked for: offsets stay within what a database counts in.
_MAX_PAGE_NUMBER: Final = 10**9


def _allow(response: falcon.Response, methods: tuple[str, ...]) -> None:
    response.set_header("Allow", ", ".join(methods))
    response.status = falcon.HTTP_204


class Endpoint:
    """Base of the three."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def _exchange(self, request: falcon.Request, response: falcon.Response) -> Exchange:
        exchange = Exchange(request, response, self._service)
        exchange.negotiate()
        if request.method in _CHANGING:
            exchange.receive()
        return exchange

    def refuse(self, req: falcon.Request, _resp: falcon.Response, **_params: Any) -> None:
        """Answer a method that the path does not have."""
        allowed = self.methods(req)
        raise MethodNotAllowedError(
            f"{shown(req.method)} is no method of {shown(req.path)}; there are {', '.join(allowed)}",
            "method",
            allowed=allowed,
        )

    def methods(self, req: falcon.Request) -> tuple[str, ...]:
        """The methods of a path."""
        raise NotImplementedError

    def on_options(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Tell the methods."""
        Exchange(req, resp, self._service)
        _allow(resp, self.methods(req))


def _find(exchange: Exchange, path: str) -> Entity:
    try:
        return exchange.registry.get_resource(path, exchange.extras)
    except KeyError:
        raise NotFoundError(f"there is nothing at {shown(path)}", "path") from None


def _check_match(exchange: Exchange, path: str) -> None:
    """Refuse a write if the entity is not what the client saw (If-Match, RFC 9110, 13.1.1)."""
    field = exchange.request.env.get("HTTP_IF_MATCH")
    if field is None:
        return
    try:
        # A second look: what `retrieve` refreshes for the comparison is not what is written.
        seen = exchange.registry.get_resource(path, exchange.extras)
    except KeyError:
        raise PreconditionFailedError("there is no such entity to match", "header If-Match") from None
    if field.strip() == "*":
        return
    with workflow.refusals():
        workflow.retrieve(seen, exchange.registry, exchange.extras)
    tags = workflow.call_first(
        exchange.extras, f"tags of {path}", lambda: exchange.etags_of(seen), of=workflow.state_of(seen)
    )
    if not names_any(field, tags):
        raise PreconditionFailedError(
            "the entity has changed since; GET it, look, and send the change with the new ETag", "header If-Match"
        )


def _check_none_match(exchange: Exchange) -> None:
    field = exchange.request.env.get("HTTP_IF_NONE_MATCH")
    if field is not None and field.strip() == "*":
        raise PreconditionFailedError("there is an entity already", "header If-None-Match")


def _create(exchange: Exchange, path: str, entity: Entity) -> None:
    workflow.create(path, entity, exchange.registry, exchange.extras, new_id=exchange.service.new_id)


def _in_a_unit_of_work(
    exchange: Exchange, serve: Callable[[], Answer], *, ahead: Callable[[], object] | None = None
) -> None:
    """Serve a write in one transaction; anew after each call that a backend has to make first (`workflow.call_first`).

    Args:
        serve: gives what answers once the write is there to stay.
        ahead: reads and checks the request as `serve` will, where that turns out to take long.
    """
    exchange.ahead = lambda: _tried(ahead) if ahead is not None else None
    while True:
        try:
            with exchange.registry.unit_of_work(exchange.extras), workflow.refusals():
                answer = serve()
        except workflow.CallFirst as first:
            first.make(exchange.extras)
        else:
            answer()
            return


def _tried(ahead: Callable[[], object]) -> None:
    # What is wrong with the request is raised in its place.
    with contextlib.suppress(HttpError):
        ahead()


def _action_term(request: falcon.Request) -> str | None:
    """The term of `?action=term`; None where there is none."""
    if not request.query_string:
        return None
    given = request.get_param_as_list("action")
    if not given:
        return None
    if len(given) != 1:
        raise BadRequestError("action is given more than once", "query")
    return given[0]


class EntityEndpoint(Endpoint):
    """A resource or a link, at its own path."""

    def methods(self, req: falcon.Request) -> tuple[str, ...]:
        return _ENTITY_METHODS

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Show it, refreshed by its backends."""
        exchange = self._exchange(req, resp)
        entity = _find(exchange, req.path)
        with workflow.refusals():
            workflow.retrieve(entity, exchange.registry, exchange.extras)
        exchange.show_entity(entity)

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Update it in part or, with `?action=`, invoke an action on it."""
        exchange = self._exchange(req, resp)
        exchange.expect_entity()
        term = _action_term(req)
        if term is not None:
            self._act(exchange, term)
            return
        parsing.read_ahead(exchange, "read_entity")

        def serve() -> Answer:
            old = _find(exchange, req.path)
            _check_match(exchange, req.path)
            new = parsing.read_update(old, exchange)
            workflow.update(old, new, exchange.registry, exchange.extras)
            return exchange.answer_entity(old)

        _in_a_unit_of_work(exchange, serve, ahead=lambda: parsing.read_update(_find(exchange, req.path), exchange))

    def _act(self, exchange: Exchange, term: str) -> None:
        path = exchange.request.path
        parsing.read_ahead(exchange, "read_action")

        def serve() -> Answer:
            old = _find(exchange, path)
            _check_match(exchange, path)
            action, attributes = parsing.read_action(exchange, term)
            parsing.check_offers(old, action)
            workflow.act(old, action, attributes, exchange.registry, exchange.extras)
            return exchange.answer_entity(old)

        if not self._only_reads(exchange, term):
            _in_a_unit_of_work(exchange, serve, ahead=lambda: parsing.read_action(exchange, term))
            return
        with workflow.refusals():
            answer = serve()
        answer()

    def _only_reads(self, exchange: Exchange, term: str) -> bool:
        with contextlib.suppress(HttpError):
            action, _ = parsing.read_action(exchange, term)
            return isinstance(exchange.registry.get_backend(action, exchange.extras), workflow.ReadOnlyActions)
        return False

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Replace it whole, or create one at this path."""
        exchange = self._exchange(req, resp)
        parsing.read_ahead(exchange, "read_entity")

        def serve() -> Answer:
            try:
                old = exchange.registry.get_resource(req.path, exchange.extras)
            except KeyError:
                _check_match(exchange, req.path)
                return self._create(exchange, req.path)
            exchange.expect_entity()
            _check_match(exchange, req.path)
            _check_none_match(exchange)
            new = parsing.read_replacement(old, exchange)
            workflow.replace(old, new, exchange.registry, exchange.extras)
            return exchange.answer_entity(old)

        def ahead() -> None:
            try:
                parsing.read_replacement(exchange.registry.get_resource(req.path, exchange.extras), exchange)
            except KeyError:
                parsing.read_created(exchange, at=None, several=False)

        _in_a_unit_of_work(exchange, serve, ahead=ahead)

    def _create(self, exchange: Exchange, path: str) -> Answer:
        exchange.checked_path(path)
        entity = parsing.read_created(exchange, at=None, several=False)[0]
        if entity.identifier and entity.identifier != path:
            raise BadRequestError(f"the id says {shown(entity.identifier)}, the path {shown(path)}", "id")
        _create(exchange, path, entity)
        return exchange.answer_created(entity)

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Delete it, and the links that start at it."""
        exchange = self._exchange(req, resp)

        def serve() -> Answer:
            entity = _find(exchange, req.path)
            _check_match(exchange, req.path)
            workflow.delete(entity, exchange.registry, exchange.extras)
            return exchange.show_done

        _in_a_unit_of_work(exchange, serve)


class CollectionEndpoint(Endpoint):
    """A path that ends in `/`: a kind's entities, a mixin's, or all that lies below."""

    def methods(self, req: falcon.Request) -> tuple[str, ...]:
        return _methods(self._service.registry.get_category(req.path, req.env.get("archelon.extras")))

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Show the entities, filtered and by pages."""
        exchange = self._exchange(req, resp)
        category = exchange.registry.get_category(req.path, exchange.extras)
        limits = exchange.service.limits
        page, number = _paging(req, limits.page)
        selection = Selection(req.path, category, offset=(page - 1) * number, limit=number)
        narrowed = parsing.read_filters(exchange, selection)
        found = exchange.registry.select(narrowed, exchange.extras) if narrowed is not None else Page([])
        if found.more and "page" not in req.params and "number" not in req.params:
            raise TooLargeError(
                f"the collection holds more than {limits.page} entities; ask for pages: ?page=1&number={limits.page}",
                "query",
            )
        if exchange.writer.shows_entities:
            with workflow.refusals():
                for entity in found.entities:
                    workflow.retrieve(entity, exchange.registry, exchange.extras)
        exchange.show_entities(found.entities)

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Create entities, attach a mixin to those named, or, with `?action=`, invoke an action on every member."""
        exchange = self._exchange(req, resp)
        category = exchange.registry.get_category(req.path, exchange.extras)
        term = _action_term(req)
        # A request that is served anew makes the entities that it was going to make.
        paths: list[str] = []
        kind = category if isinstance(category, Kind) else None
        creates = "read_collection" if isinstance(category, Mixin) else "read_created"
        parsing.read_ahead(exchange, creates if term is None else "read_action")

        def serve() -> Answer:
            if term is not None:
                if not isinstance(category, Kind | Mixin):
                    raise _not_allowed(req.path, None)
                return self._act(exchange, term, category)
            if isinstance(category, Mixin):
                workflow.attach(self._members(exchange, category), category, exchange.registry, exchange.extras)
                return exchange.show_done
            return self._create(exchange, kind, paths)

        def ahead() -> None:
            if term is not None:
                parsing.read_action(exchange, term)
            else:
                parsing.read_created(exchange, at=kind, several=True)

        _in_a_unit_of_work(exchange, serve, ahead=ahead)

    def _create(self, exchange: Exchange, kind: Kind | None, paths: list[str]) -> Answer:
        entities = parsing.read_created(exchange, at=kind, several=True)
        for place, entity in enumerate(entities):
            if entity.identifier:
                raise BadRequestError(
                    f"the service chooses the id; to choose it, PUT at {shown(exchange.path_of(entity.identifier))}",
                    "id",
                )
            if place == len(paths):
                paths.append(workflow.new_identifier(entity.kind, exchange.service.new_id))
            _create(exchange, paths[place], entity)
        if len(entities) == 1:
            return exchange.answer_created(entities[0])
        return exchange.answer_entities(entities)

    def _act(self, exchange: Exchange, term: str, category: Kind | Mixin) -> Answer:
        action, attributes = parsing.read_action(exchange, term)
        members = self._all(exchange, category)
        for entity in members:
            parsing.check_offers(entity, action)
        for entity in members:
            workflow.act(entity, action, dict(attributes), exchange.registry, exchange.extras)
        return exchange.show_done

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Make exactly the entities named the members of a mixin."""
        exchange = self._exchange(req, resp)
        category = exchange.registry.get_category(req.path, exchange.extras)
        if not isinstance(category, Mixin):
            raise _not_allowed(req.path, category)
        parsing.read_ahead(exchange, "read_collection")

        def serve() -> Answer:
            wanted = self._members(exchange, category)
            names = {entity.identifier for entity in wanted}
            workflow.attach(wanted, category, exchange.registry, exchange.extras)
            surplus = [each for each in self._all(exchange, category) if each.identifier not in names]
            workflow.detach(surplus, category, exchange.registry, exchange.extras)
            return exchange.show_done

        _in_a_unit_of_work(exchange, serve)

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Delete every entity of a kind, or detach a mixin from the entities named or, without any, from all."""
        exchange = self._exchange(req, resp)
        category = exchange.registry.get_category(req.path, exchange.extras)
        if not isinstance(category, Kind | Mixin):
            raise _not_allowed(req.path, None)
        named = bool(exchange.body) or "HTTP_X_OCCI_LOCATION" in req.env
        if named:
            parsing.read_ahead(exchange, "read_collection")

        def serve() -> Answer:
            if isinstance(category, Mixin):
                members = self._members(exchange, category) if named else self._all(exchange, category)
                workflow.detach(members, category, exchange.registry, exchange.extras)
            elif named:
                raise BadRequestError(
                    "entities of a kind are deleted one by one at their own paths, or all without a body", "body"
                )
            else:
                for entity in self._all(exchange, category):
                    workflow.delete(entity, exchange.registry, exchange.extras)
            return exchange.show_done

        _in_a_unit_of_work(exchange, serve)

    def _members(self, exchange: Exchange, mixin: Mixin) -> list[Entity]:
        members = parsing.read_members(exchange)
        if not members:
            raise BadRequestError("the request names no entity: X-OCCI-Location: <URI>", "X-OCCI-Location")
        for entity in members:
            parsing.check_applies(entity.kind, [mixin], "")
        return members

    def _all(self, exchange: Exchange, category: Kind | Mixin) -> list[Entity]:
        limit = exchange.service.limits.page
        page = exchange.registry.select(Selection(category=category, limit=limit), exchange.extras)
        if page.more:
            raise TooLargeError(f"the collection holds more than {limit} entities; name them one by one", "path")
        return page.entities


def _paging(request: falcon.Request, limit: int) -> tuple[int, int]:
    page = _whole_number(request, "page", 1)
    number = _whole_number(request, "number", limit)
    if number > limit:
        raise TooLargeError(f"number is {number}; a page holds at most {limit} entities", "query number")
    return page, number


def _whole_number(request: falcon.Request, name: str, default: int) -> int:
    given = request.get_param_as_list(name)
    if given is None:
        return default
    text = given[0] if len(given) == 1 else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= _MAX_PAGE_NUMBER):
        raise BadRequestError(
            f"{name} is {shown(','.join(given))}, and has to be a whole number from 1", f"query {name}"
        )
    return int(text)


def _methods(category: object) -> tuple[str, ...]:
    if isinstance(category, Mixin):
        return _MIXIN_METHODS
    return _KIND_METHODS if isinstance(category, Kind) else _PATH_METHODS


def _not_allowed(path: str, category: object) -> MethodNotAllowedError:
    what = f"a {category!r}'s collection" if category is not None else "no collection of a kind or mixin"
    allowed = _methods(category)
    return MethodNotAllowedError(
        f"{shown(path)} is {what}, which has no such method; there are {', '.join(allowed)}", "method", allowed=allowed
    )


class QueryEndpoint(Endpoint):
    """The query interface at `/-/`: what categories there are, and a tenant's own mixins."""

    def methods(self, req: falcon.Request) -> tuple[str, ...]:
        return _KIND_METHODS

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Show the categories; with a filter those named and those related to them."""
        exchange = self._exchange(req, resp)
        categories = exchange.registry.get_categories(exchange.extras)
        if self._service.dialect != "pyssf" or exchange.writer.mime_type == "text/html":
            # Old clients know the core kinds without being told; a page links to them.
            categories = [*(each for each in CORE_KINDS if each not in categories), *categories]
        if "HTTP_CATEGORY" in req.env:
            selection = parsing.read_filters(exchange, Selection())
            named = list(selection.categories) if selection is not None else []
            categories = [each for each in categories if each in named or _related(each, named)]
        exchange.show_categories(categories)

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Add mixins of the tenant's own."""
        exchange = self._exchange(req, resp)
        registry = exchange.registry
        parsing.read_ahead(exchange, "read_categories")

        def serve() -> Answer:
            mixins = parsing.read_mixins(exchange)
            present = registry.get_categories(exchange.extras)
            self._check_count(len(mixins), present, exchange)
            taken = [each.location for each in present if not isinstance(each, Action)]
            names: set[str] = set()
            for mixin in mixins:
                name = type_id(mixin)
                if name in names or registry.find_category(name, exchange.extras) is not None:
                    raise ConflictError(f"there is a category {name} already", "Category")
                if self._taken(mixin.location, taken, exchange):
                    raise ConflictError(f"the location {shown(mixin.location)} is taken", "location")
                names.add(name)
                taken.append(mixin.location)
            # Only now: registries written for pyssf cannot undo.
            for mixin in mixins:
                registry.set_backend(mixin, UserDefinedMixinBackend(), exchange.extras)
            return exchange.answer_categories(list(mixins))

        _in_a_unit_of_work(exchange, serve)

    def _check_count(self, adding: int, present: list[Category], exchange: Exchange) -> None:
        limit = self._service.limits.mixins
        mixins = [each for each in present if isinstance(each, Mixin)]
        backends = [exchange.registry.get_backend(each, exchange.extras) for each in mixins]
        own = sum(isinstance(each, UserDefinedMixinBackend) for each in backends)
        if own + adding > limit:
            raise ConflictError(f"there are {own} mixins of yours, and may be {limit}; remove some first", "Category")

    def _taken(self, location: str, others: list[str | None], exchange: Exchange) -> bool:
        """Whether a location is one already, or lies above or below one, or above an entity."""
        if location == "/" or location.startswith(("/-/", "/.well-known/")):
            return True
        for other in others:
            if other and other != "/" and (other.startswith(location) or location.startswith(other)):
                return True
        below = exchange.registry.select(Selection(path=location, limit=1), exchange.extras)
        return bool(below.entities)

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Remove mixins of the tenant's own, from their members too."""
        exchange = self._exchange(req, resp)
        registry = exchange.registry
        parsing.read_ahead(exchange, "read_categories")

        def serve() -> Answer:
            categories = parsing.read_categories(exchange)
            if not categories:
                raise BadRequestError("the request names no mixin to remove", "Category")
            mixins: list[Mixin] = []
            for category in categories:
                backend = registry.get_backend(category, exchange.extras)
                if not isinstance(category, Mixin) or not isinstance(backend, UserDefinedMixinBackend):
                    raise ForbiddenError(f"{type_id(category)} is the provider's and stays", "Category")
                mixins.append(category)
            for mixin in mixins:
                members = registry.select(Selection(category=mixin), exchange.extras).entities
                workflow.detach(members, mixin, registry, exchange.extras)
                registry.delete_mixin(mixin, exchange.extras)
            return exchange.show_done

        _in_a_unit_of_work(exchange, serve)


def _related(category: Any, named: list[Any]) -> bool:
    """Whether a category is an action or an ancestor of one of those named, or descends from one."""
    return any(
        category in getattr(each, "related", ()) or category in getattr(each, "actions", ()) for each in named
    ) or any(each in getattr(category, "related", ()) for each in named)
