"""The application: a WSGI callable that serves OCCI 1.2 for any pyssf backend.

A project that used `occi.wsgi.Application` moves over by changing that import: `register_backend`, a registry and
renderings of its own, and a subclass that passes extras through `_call_occi` work as they did.

Falcon routes, by its own tables for whatever else is mounted (health, metrics), and by the shape of the path for OCCI:
the query interface, collections (a slash at the end), entities.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

import falcon
import falcon.routing
import occi.protocol.rendering
import occi.registry
from occi.backend import ActionBackend, KindBackend
from occi.core_model import Category

from archelon_core.errors import HttpError, of_status

from .. import __version__
from ..registry import InMemoryRegistry, as_registry
from ..registry.categories import Categories
from ..renderings import (
    ErrorDocument,
    Json,
    JsonPyssf,
    MalformedDocumentError,
    PlainJson,
    Rendering,
    TextOcci,
    TextOcciHurtle,
    TextOcciPlain,
    TextPlain,
    UriList,
)
from ..renderings.grammar import split_type_id
from ..renderings.html import Html
from .endpoints import CollectionEndpoint, Endpoint, EntityEndpoint, QueryEndpoint
from .pyssf_renderings import ForeignRendering
from .request import RequestLimits, Service, writer_of

log = logging.getLogger(__name__)

Dialect = Literal["1.2", "pyssf"]
StartResponse = Callable[..., Any]
Wsgi = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_EXTRAS: Final = "archelon.extras"
_QUERY_PATHS: Final = ("/-/", "/.well-known/org/ogf/occi/-/")


def _default_renderings(dialect: Dialect) -> dict[str, Rendering]:
    text_occi = TextOcci() if dialect == "1.2" else TextOcciHurtle()
    json = Json() if dialect == "1.2" else JsonPyssf()
    renderings: list[Rendering] = [TextPlain(), text_occi, json, Html(), UriList(), TextOcciPlain(), PlainJson()]
    return {each.mime_type: each for each in renderings}


class _Router(falcon.routing.CompiledRouter):
    """Falcon's router, and behind it OCCI's three kinds of path."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._query = self._route(QueryEndpoint(service))
        self._collection = self._route(CollectionEndpoint(service))
        self._entity = self._route(EntityEndpoint(service))
        self._has_routes = False

    def _route(self, endpoint: Endpoint) -> tuple[Any, dict[str, Any], dict[str, Any], str | None]:
        # Not Falcon's own refusals: their Allow is the class's, ours the path's.
        methods = dict.fromkeys(falcon.COMBINED_METHODS, endpoint.refuse)
        return endpoint, methods | dict(self.map_http_methods(endpoint)), {}, None

    def add_route(self, uri_template: str, resource: object, **kwargs: Any) -> None:
        super().add_route(uri_template, resource, **kwargs)
        self._has_routes = True

    def find(self, uri: str, req: falcon.Request | None = None) -> Any:
        if self._has_routes:
            found = super().find(uri, req)
            if found is not None:
                return found
        if not uri.endswith("/"):
            return self._entity
        return self._query if uri in _QUERY_PATHS else self._collection


class Application:
    """An OCCI service as a WSGI callable.

    Args:
        registry: where categories and entities are kept; in memory without one. pyssf's registries serve too.
        renderings: media type to rendering, instead of the default ones; pyssf's renderings serve too.
        dialect: `1.2`, or `pyssf` for clients of Hurtle's time.
        limits: sizes beyond which requests and answers are refused.
        base_url: scheme and host that clients use, such as `https://occi.example.org`; taken from each request without.
        product: name and version for the `Server` header.
        new_id: makes the last part of new paths.

    Attributes:
        registry: as given.
        falcon: Falcon's application, for routes beside OCCI's (`application.falcon.add_route("/healthz", …)`).
    """

    def __init__(
        self,
        registry: occi.registry.Registry | None = None,
        renderings: Mapping[str, occi.protocol.rendering.Rendering] | None = None,
        *,
        dialect: Dialect = "1.2",
        limits: RequestLimits | None = None,
        base_url: str | None = None,
        product: str | None = None,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self.registry: occi.registry.Registry = registry if registry is not None else InMemoryRegistry()
        chosen = renderings if renderings is not None else _default_renderings(dialect)
        ours: dict[str, Rendering] = {}
        for mime_type, each in chosen.items():
            self.registry.set_renderer(mime_type, each)
            ours[mime_type] = each if isinstance(each, Rendering) else ForeignRendering(each, mime_type)
        self._service = Service(
            registry=as_registry(self.registry),
            renderings=ours,
            offered=tuple(ours),
            readable=tuple([mime_type for mime_type in ours if mime_type != "text/html"]),
            dialect=dialect,
            limits=limits or RequestLimits(),
            base_url=base_url.rstrip("/") if base_url else None,
            new_id=new_id,
        )
        self.server = f"{product or f'archelon/{__version__}'} OCCI/1.2"
        self.falcon: falcon.App[falcon.Request, falcon.Response] = falcon.App(router=_Router(self._service))
        self.falcon.req_options.keep_blank_qs_values = True
        self.falcon.resp_options.default_media_type = "text/plain"
        self.falcon.add_error_handler(Exception, self._on_slip)
        self.falcon.add_error_handler(falcon.HTTPError, self._on_error)
        self.falcon.add_error_handler(HttpError, self._on_error)

    def register_backend(self, category: Category, backend: KindBackend | ActionBackend) -> None:
        """Publish a kind, mixin or action with the backend that serves it.

        Raises:
            AttributeError: the backend does not derive from the class that the category's type needs, another
                category has the location, or scheme and term are no type identifier.
        """
        _check_type_id(category)
        Categories().add(category, backend)
        self.registry.set_backend(category, backend, None)

    def __call__(self, environ: dict[str, Any], response: StartResponse) -> Iterable[bytes]:
        """WSGI. A subclass that has something for its backends overrides this and calls `_call_occi`."""
        return self._call_occi(environ, response)

    def _call_occi(self, environ: dict[str, Any], response: StartResponse, **extras: Any) -> Iterable[bytes]:
        """Serve a request; `extras` reach every backend and the registry."""
        environ[_EXTRAS] = extras
        server = self.server

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            headers.append(("Server", server))
            return response(status, headers)

        return self.falcon(environ, start)

    # errors -----------------------------------------------------------------------------------------------------------

    def _on_error(
        self, req: falcon.Request, resp: falcon.Response, error: HttpError | falcon.HTTPError, _params: Any
    ) -> None:
        """One place renders every error, in the rendering that was asked for."""
        shown = error if isinstance(error, HttpError) else _http_error(error)
        resp.status = f"{shown.status} {shown.title}"
        resp.set_headers(shown.headers)
        writer = self._error_writer(req)
        payload = writer.write_error(ErrorDocument(shown.status, shown.title, shown.message, shown.where))
        resp.content_type = writer.content_type
        resp.set_header("Vary", "Accept")
        resp.data = payload.body

    def _error_writer(self, req: falcon.Request) -> Rendering:
        try:
            return writer_of(req, self._service)
        except HttpError:
            # What cannot be negotiated.
            return self._service.renderings.get("text/plain") or TextPlain()

    def _on_slip(self, req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
        self._on_error(req, resp, self._answer_to(error, req.method, req.path), params)

    def _answer_to(self, error: Exception, method: str, path: str) -> HttpError:
        """What the client is told of an exception that is no error of HTTP; it is logged here."""
        refusal = error if isinstance(error, HttpError) else self.refusal_of(error)
        if refusal is None:
            log.error("unforeseen: %s %s", method, path, exc_info=error)
            text = "something went wrong here and was logged; it is not the request's fault"
            return of_status(500, text)
        if refusal.status >= 500:
            log.warning("answered with %d: %s", refusal.status, type(error).__name__, extra={"status": refusal.status})
        return refusal

    def refusal_of(self, _error: Exception) -> HttpError | None:
        """What a client is told of an exception that a library raised and that is no slip; None where it is one.

        A service overrides this for what it stands on, such as a database.
        """
        return None

    def render_error(
        self,
        environ: dict[str, Any],
        start_response: StartResponse,
        error: HttpError,
    ) -> Iterable[bytes]:
        """Answer a refusal of a layer outside, in the rendering that was asked for (an `identity.ErrorRenderer`)."""
        return self._render(environ, start_response, error)

    def render_exception(
        self, environ: dict[str, Any], start_response: StartResponse, error: Exception
    ) -> Iterable[bytes]:
        """Answer what a layer outside has raised, as if it had been raised within."""
        answer = self._answer_to(error, environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", ""))
        return self._render(environ, start_response, answer)

    def _render(self, environ: dict[str, Any], start_response: StartResponse, error: HttpError) -> Iterable[bytes]:
        req, resp = falcon.Request(environ), falcon.Response()
        self._on_error(req, resp, error, None)
        body = resp.data or b""
        fields = [(name, value) for name, value in resp.headers.items() if name not in ("content-length", "server")]
        # A refusal may depend on the token, which no cache sees.
        fields += [("Content-Length", str(len(body))), ("Cache-Control", "no-store"), ("Server", self.server)]
        start_response(str(resp.status), fields)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


class ErrorBoundary:
    """WSGI middleware in front of an application's doors: what any of them raises is answered by the application.

    A server would write a page of its own, in no rendering and without saying whether to try again.

    Args:
        doors: what may raise.
        application: answers.
    """

    def __init__(self, doors: Wsgi, application: Application) -> None:
        self._doors = doors
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """WSGI. What is raised while a body is sent comes too late for another answer, and is the server's to end."""
        try:
            return self._doors(environ, start_response)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and answered
            return self._application.render_exception(environ, start_response, error)


def _check_type_id(category: Category) -> None:
    # Every answer that names the category splits its type identifier again.
    name = f"{category.scheme}{category.term}"
    try:
        split = split_type_id(name)
    except MalformedDocumentError as error:
        raise AttributeError(error.message) from None
    if split != (category.scheme, category.term):
        raise AttributeError(f"the scheme of {name!r} is {category.scheme!r}, and has to end in #")


def _http_error(error: falcon.HTTPError) -> HttpError:
    """An error of Falcon's own."""
    status = falcon.http_status_to_code(error.status)
    headers = dict(error.headers or {})
    return of_status(status, error.description or error.title or str(error.status), "request", headers=headers)
