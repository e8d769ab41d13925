"""OCCI's three kinds of path (GFD.223), as one Falcon resource each: an entity, a collection, the query interface.

Each method parses the request, calls `backends` inside the registry's unit of work, and renders the outcome after it, since other
writers wait for a unit of work. The methods here are the cells of the protocol's method table; any other is refused with 405 and
the permitted methods.
"""

from __future__ import annotations

import contextlib
import urllib.parse
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
from . import backends, parsing
from .request import Answer, Exchange, Service, names_any

QUERY_PATHS: Final = ("/-/", "/.well-known/org/ogf/occi/-/")
_ENTITY_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
_KIND_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "POST")
_MIXIN_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
_PATH_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST")
_CHANGING: Final = frozenset(("DELETE", "POST", "PUT"))
#: The last page that can be requested: offsets stay within a database's integers.
_MAX_PAGE_NUMBER: Final = 10**9
_LONGEST_AFTER: Final = 256


def _allow(response: falcon.Response, methods: tuple[str, ...]) -> None:
    response.set_header("Allow", ", ".join(methods))
    response.status = falcon.HTTP_204


class Endpoint:
    """Base of the three endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def _exchange(self, request: falcon.Request, response: falcon.Response) -> Exchange:
        exchange = Exchange(request, response, self._service)
        exchange.negotiate()
        if request.method in _CHANGING:
            exchange.receive()
        return exchange

    def refuse(self, req: falcon.Request, _resp: falcon.Response, **_params: Any) -> None:
        """Refuse a method that the path does not have."""
        allowed = self.methods(req)
        raise MethodNotAllowedError(
            f"{shown(req.method)} is no method of {shown(req.path)}; expected one of {', '.join(allowed)}",
            "method",
            allowed=allowed,
        )

    def methods(self, req: falcon.Request) -> tuple[str, ...]:
        """Return the methods of a path."""
        raise NotImplementedError

    def on_options(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the permitted methods."""
        Exchange(req, resp, self._service)
        _allow(resp, self.methods(req))


def _find(exchange: Exchange, path: str) -> Entity:
    found = exchange.find(path)
    if found is None:
        raise _nothing_at(exchange, path)
    return found


def _nothing_at(exchange: Exchange, path: str) -> NotFoundError:
    collection = path + "/"
    exists = collection in QUERY_PATHS or exchange.registry.get_category(collection, exchange.extras) is not None
    hint = f"; the collection is {shown(collection)}" if exists else ""
    return NotFoundError(f"there is nothing at {shown(path)}{hint}", "path")


def _check_match(exchange: Exchange, path: str) -> None:
    """Refuse a write if the entity has changed since the client read it (If-Match, RFC 9110, 13.1.1)."""
    field = exchange.request.env.get("HTTP_IF_MATCH")
    if field is None:
        return
    # Read it again: the refresh by `retrieve`, for the comparison, must not be written.
    seen = exchange.find(path)
    if seen is None:
        raise PreconditionFailedError("there is no such entity to match", "header If-Match")
    if field.strip() == "*":
        return
    with backends.refusals():
        backends.retrieve(seen, exchange.registry, exchange.extras)
    tags = backends.call_first(
        exchange.extras, f"tags of {path}", lambda: exchange.etags_of(seen), of=backends.state_of(seen)
    )
    if not names_any(field, tags):
        raise PreconditionFailedError(
            "the entity has changed in the meantime; GET it and send the change with the new ETag", "header If-Match"
        )


def _check_none_match(exchange: Exchange) -> None:
    field = exchange.request.env.get("HTTP_IF_NONE_MATCH")
    if field is not None and field.strip() == "*":
        raise PreconditionFailedError("the entity exists already", "header If-None-Match")


def _create(exchange: Exchange, path: str, entity: Entity) -> None:
    backends.create(path, entity, exchange.registry, exchange.extras, new_id=exchange.service.new_id)


class _Undo(Exception):  # noqa: N818 - control flow, not an error
    """Rolls back the unit of work of a dry run."""


def _in_a_unit_of_work(
    exchange: Exchange,
    serve: Callable[[], Answer],
    *,
    ahead: Callable[[], object] | None = None,
    has_dry_run: bool = False,
) -> None:
    """Process a write in one transaction; repeat it after each call that a backend has to make first (`backends.call_first`).

    Args:
        serve: does the work and returns the function that responds after the commit.
        ahead: parses and checks the request as `serve` will, if that turns out to be slow.
        has_dry_run: whether `?dry-run=true` may ask for the response alone; the transaction is then rolled back.
    """
    if exchange.dry_run and not has_dry_run:
        raise BadRequestError("only creating and updating one entity have a dry run", "query dry-run")
    exchange.ahead = lambda: _attempt(ahead) if ahead is not None else None
    while True:
        try:
            with exchange.registry.unit_of_work(exchange.extras), backends.refusals():
                answer = serve()
                if exchange.dry_run:
                    raise _Undo
        except backends.CallFirst as first:
            first.make(exchange.extras)
            continue
        except _Undo:
            pass
        answer()
        return


def _attempt(ahead: Callable[[], object]) -> None:
    # Errors of the request are raised by `serve`.
    with contextlib.suppress(HttpError):
        ahead()


def _action_term(request: falcon.Request) -> str | None:
    """Return the term of `?action=term`, or None."""
    if not request.query_string:
        return None
    given = request.get_param_as_list("action")
    if not given:
        return None
    if len(given) != 1:
        raise BadRequestError("action is given more than once", "query")
    return given[0]


class EntityEndpoint(Endpoint):
    """A resource or a link at its path."""

    def methods(self, req: falcon.Request) -> tuple[str, ...]:
        return _ENTITY_METHODS

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return it, refreshed by its backends."""
        exchange = self._exchange(req, resp)
        if not exchange.show_stored(req.path):
            raise _nothing_at(exchange, req.path)

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Update it partially or, with `?action=`, invoke an action on it."""
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
            backends.update(old, new, exchange.registry, exchange.extras)
            return exchange.answer_entity(old)

        _in_a_unit_of_work(
            exchange,
            serve,
            ahead=lambda: parsing.read_update(_find(exchange, req.path), exchange),
            has_dry_run=True,
        )

    def _act(self, exchange: Exchange, term: str) -> None:
        path = exchange.request.path
        parsing.read_ahead(exchange, "read_action")

        def serve() -> Answer:
            old = _find(exchange, path)
            _check_match(exchange, path)
            action, attributes = parsing.read_action(exchange, term)
            parsing.check_offers(old, action)
            backends.act(old, action, attributes, exchange.registry, exchange.extras)
            return exchange.answer_entity(old)

        if not self._only_reads(exchange, term):
            _in_a_unit_of_work(exchange, serve, ahead=lambda: parsing.read_action(exchange, term))
            return
        with backends.refusals():
            answer = serve()
        answer()

    def _only_reads(self, exchange: Exchange, term: str) -> bool:
        with contextlib.suppress(HttpError):
            action, _ = parsing.read_action(exchange, term)
            return isinstance(exchange.registry.get_backend(action, exchange.extras), backends.ReadOnlyActions)
        return False

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Replace it, or create one at this path."""
        exchange = self._exchange(req, resp)
        parsing.read_ahead(exchange, "read_entity")

        def serve() -> Answer:
            old = exchange.find(req.path)
            if old is None:
                _check_match(exchange, req.path)
                return self._create(exchange, req.path)
            exchange.expect_entity()
            _check_match(exchange, req.path)
            _check_none_match(exchange)
            new = parsing.read_replacement(old, exchange)
            backends.replace(old, new, exchange.registry, exchange.extras)
            return exchange.answer_entity(old)

        def ahead() -> None:
            old = exchange.find(req.path)
            if old is None:
                parsing.read_created(exchange, at=None, several=False)
            else:
                parsing.read_replacement(old, exchange)

        _in_a_unit_of_work(exchange, serve, ahead=ahead, has_dry_run=True)

    def _create(self, exchange: Exchange, path: str) -> Answer:
        exchange.checked_path(path)
        entity = parsing.read_created(exchange, at=None, several=False)[0]
        _create(exchange, path, entity)
        return exchange.answer_created(entity)

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Delete it and the links that start at it."""
        exchange = self._exchange(req, resp)

        def serve() -> Answer:
            entity = _find(exchange, req.path)
            _check_match(exchange, req.path)
            backends.delete(entity, exchange.registry, exchange.extras)
            return exchange.show_done

        _in_a_unit_of_work(exchange, serve)


class CollectionEndpoint(Endpoint):
    """A path that ends in `/`: the entities of a kind or a mixin, or all below the path."""

    def methods(self, req: falcon.Request) -> tuple[str, ...]:
        return _methods(self._service.registry.get_category(req.path, req.env.get("archelon.extras")))

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the entities, filtered and in pages."""
        exchange = self._exchange(req, resp)
        category = exchange.registry.get_category(req.path, exchange.extras)
        limits = exchange.service.limits
        page, number, after = _paging(req, limits.page)
        selection = Selection(req.path, category, offset=(page - 1) * number, limit=number, after=after)
        narrowed = parsing.read_filters(exchange, selection)
        found = exchange.registry.select(narrowed, exchange.extras) if narrowed is not None else Page([])
        if found.more and after is None and "page" not in req.params and "number" not in req.params:
            raise TooLargeError(
                f"the collection holds more than {limits.page} entities; ask for pages: ?page=1&number={limits.page}",
                "query",
            )
        if found.next is not None and not exchange.writer.headers_only:
            # In text/occi, Link is a field of OCCI's (GFD.185).
            query = urllib.parse.urlencode({"number": number, "after": found.next})
            resp.append_link(f"{exchange.path_of(req.path)}?{query}", "next")
        self._show(exchange, found.entities)

    on_head = on_get

    def _show(self, exchange: Exchange, entities: list[Entity]) -> None:
        if exchange.writer.shows_entities:
            with backends.refusals():
                for entity in entities:
                    backends.retrieve(entity, exchange.registry, exchange.extras)
        exchange.answer_entities(entities)()

    def _show_members(self, exchange: Exchange, mixin: Mixin) -> None:
        """Respond with a mixin's collection; only with success if that is too large for one response, since all is done."""
        page = exchange.registry.select(Selection(category=mixin, limit=exchange.service.limits.page), exchange.extras)
        if page.more or not exchange.fits_header([each.identifier for each in page.entities]):
            exchange.show_done()
        else:
            self._show(exchange, page.entities)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Create entities, attach a mixin to those named or, with `?action=`, invoke an action on every member."""
        exchange = self._exchange(req, resp)
        category = exchange.registry.get_category(req.path, exchange.extras)
        term = _action_term(req)
        # A request that is processed again creates entities at the same paths.
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
                backends.attach(self._members(exchange, category), category, exchange.registry, exchange.extras)
                return lambda: self._show_members(exchange, category)
            return self._create(exchange, kind, paths)

        def ahead() -> None:
            if term is not None:
                parsing.read_action(exchange, term)
            else:
                parsing.read_created(exchange, at=kind, several=True)

        _in_a_unit_of_work(exchange, serve, ahead=ahead, has_dry_run=creates == "read_created" and term is None)

    def _create(self, exchange: Exchange, kind: Kind | None, paths: list[str]) -> Answer:
        entities = parsing.read_created(exchange, at=kind, several=True)
        for place, entity in enumerate(entities):
            if place == len(paths):
                paths.append(backends.new_identifier(entity.kind, exchange.service.new_id))
            _create(exchange, self._free_choice(exchange, entity) or paths[place], entity)
        if len(entities) == 1:
            return exchange.answer_created(entities[0])
        return exchange.answer_entities(entities)

    def _free_choice(self, exchange: Exchange, entity: Entity) -> str | None:
        """Return the path that the client chose by an id, if the backend permits it and nothing is there; None for a new one."""
        if not isinstance(exchange.registry.get_backend(entity.kind, exchange.extras), backends.ChosenIds):
            return None
        path = parsing.chosen_path(entity, exchange)
        if path is not None and exchange.find(path) is not None:
            path = None
        exchange.extras["chosen_path"] = path is not None
        return path

    def _act(self, exchange: Exchange, term: str, category: Kind | Mixin) -> Answer:
        parsing.refuse_filters(exchange)
        action, attributes = parsing.read_action(exchange, term, on_all=True)
        members = self._all(exchange, category)
        for entity in members:
            parsing.check_offers(entity, action)
        for entity in members:
            backends.act(entity, action, dict(attributes), exchange.registry, exchange.extras)
        return exchange.show_done

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Set the members of a mixin to exactly the entities named."""
        exchange = self._exchange(req, resp)
        category = exchange.registry.get_category(req.path, exchange.extras)
        if not isinstance(category, Mixin):
            raise _not_allowed(req.path, category)
        parsing.read_ahead(exchange, "read_collection")

        def serve() -> Answer:
            wanted = self._members(exchange, category)
            names = {entity.identifier for entity in wanted}
            backends.attach(wanted, category, exchange.registry, exchange.extras)
            surplus = [each for each in self._all(exchange, category) if each.identifier not in names]
            backends.detach(surplus, category, exchange.registry, exchange.extras)
            return lambda: self._show_members(exchange, category)

        _in_a_unit_of_work(exchange, serve)

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Delete every entity of a kind, or detach a mixin from the entities named or, without any, from all."""
        exchange = self._exchange(req, resp)
        category = exchange.registry.get_category(req.path, exchange.extras)
        if not isinstance(category, Kind | Mixin):
            raise _not_allowed(req.path, None)
        parsing.refuse_filters(exchange)
        named = bool(exchange.body) or "HTTP_X_OCCI_LOCATION" in req.env
        if named:
            parsing.read_ahead(exchange, "read_collection")

        def serve() -> Answer:
            if isinstance(category, Mixin):
                members = self._members(exchange, category) if named else self._all(exchange, category)
                backends.detach(members, category, exchange.registry, exchange.extras)
            elif named:
                raise BadRequestError(
                    "delete entities of a kind one by one at their own paths, or all of them without a body", "body"
                )
            else:
                for entity in self._all(exchange, category):
                    backends.delete(entity, exchange.registry, exchange.extras)
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


def _paging(request: falcon.Request, limit: int) -> tuple[int, int, str | None]:
    page = _whole_number(request, "page", 1, most=_MAX_PAGE_NUMBER)
    number = _whole_number(request, "number", limit, most=limit)
    given = request.get_param_as_list("after")
    if given is None:
        return page, number, None
    if len(given) != 1 or "page" in request.params:
        raise BadRequestError("after is given once, and in place of page", "query after")
    if not given[0].isascii() or len(given[0]) > _LONGEST_AFTER:
        raise BadRequestError("after must be the one of a link to the next page", "query after")
    return page, number, given[0]


def _whole_number(request: falcon.Request, name: str, default: int, *, most: int) -> int:
    given = request.get_param_as_list(name)
    if given is None:
        return default
    text = given[0] if len(given) == 1 else ""
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit() and digits):
        raise BadRequestError(f"{name} is {shown(','.join(given))}, and must be a whole number from 1", f"query {name}")
    if len(digits) > 10 or int(digits) > most:
        raise TooLargeError(f"{name} is {shown(digits)}, and may be at most {most}", f"query {name}")
    return int(digits)


def _methods(category: object) -> tuple[str, ...]:
    if isinstance(category, Mixin):
        return _MIXIN_METHODS
    return _KIND_METHODS if isinstance(category, Kind) else _PATH_METHODS


def _not_allowed(path: str, category: object) -> MethodNotAllowedError:
    what = f"a {category!r}'s collection" if category is not None else "no collection of a kind or mixin"
    allowed = _methods(category)
    return MethodNotAllowedError(
        f"{shown(path)} is {what}, which has no such method; expected one of {', '.join(allowed)}",
        "method",
        allowed=allowed,
    )


class QueryEndpoint(Endpoint):
    """The query interface at `/-/`: the categories, and a tenant's own mixins."""

    def methods(self, req: falcon.Request) -> tuple[str, ...]:
        return _KIND_METHODS

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the categories; with a filter, those named and those related to them."""
        exchange = self._exchange(req, resp)
        categories = exchange.registry.get_categories(exchange.extras)
        if self._service.dialect != "pyssf" or exchange.writer.mime_type == "text/html":
            # pyssf's clients have the core kinds built in; the HTML page links to them.
            categories = [*(each for each in CORE_KINDS if each not in categories), *categories]
        if parsing.has_filters(exchange):
            selection = parsing.read_filters(exchange, Selection())
            named = list(selection.categories) if selection is not None else []
            categories = [each for each in categories if each in named or _related(each, named)]
        exchange.answer_categories(categories)()

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Add mixins of the tenant."""
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
                    raise ConflictError(f"the category {name} exists already", "Category")
                if self._taken(mixin.location, taken, exchange):
                    raise ConflictError(f"the location {shown(mixin.location)} is in use", "location")
                names.add(name)
                taken.append(mixin.location)
            # All checks come first, since registries written for pyssf cannot undo.
            for mixin in mixins:
                registry.set_backend(mixin, UserDefinedMixinBackend(), exchange.extras)
            return exchange.answer_categories(list(mixins))

        _in_a_unit_of_work(exchange, serve)

    def _check_count(self, adding: int, present: list[Category], exchange: Exchange) -> None:
        limit = self._service.limits.mixins
        mixins = [each for each in present if isinstance(each, Mixin)]
        owned = [exchange.registry.get_backend(each, exchange.extras) for each in mixins]
        own = sum(isinstance(each, UserDefinedMixinBackend) for each in owned)
        if own + adding > limit:
            raise ConflictError(
                f"you have {own} mixins, and at most {limit} are allowed; remove some first", "Category"
            )

    def _taken(self, location: str, others: list[str | None], exchange: Exchange) -> bool:
        """Return whether a location is in use, lies above or below one in use, or above an entity."""
        if location == "/" or location.startswith(("/-/", "/.well-known/")):
            return True
        for other in others:
            if other and other != "/" and (other.startswith(location) or location.startswith(other)):
                return True
        below = exchange.registry.select(Selection(path=location, limit=1), exchange.extras)
        return bool(below.entities)

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Remove mixins of the tenant, and detach them from their members."""
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
                    raise ForbiddenError(
                        f"{type_id(category)} belongs to the provider and cannot be removed", "Category"
                    )
                mixins.append(category)
            for mixin in mixins:
                members = registry.select(Selection(category=mixin), exchange.extras).entities
                backends.detach(members, mixin, registry, exchange.extras)
                registry.delete_mixin(mixin, exchange.extras)
            return exchange.show_done

        _in_a_unit_of_work(exchange, serve)


def _related(category: Any, named: list[Any]) -> bool:
    """Return whether a category is an action or ancestor of one of those named, or derives from one."""
    return any(
        category in getattr(each, "related", ()) or category in getattr(each, "actions", ()) for each in named
    ) or any(each in getattr(category, "related", ()) for each in named)
