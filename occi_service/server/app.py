"""The application: a WSGI callable that serves OCCI 1.2 for any pyssf backend.

To move a project from `occi.wsgi.Application`, change that import: `register_backend`, its own registry and renderings, and a
subclass that passes extras through `_call_occi` work unchanged.

Falcon routes other mounted resources (health, metrics) by its own tables, and OCCI by the form of the path: the query interface,
collections (trailing slash), entities.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from .endpoints import QUERY_PATHS, CollectionEndpoint, Endpoint, EntityEndpoint, QueryEndpoint
from .own_urls import OwnUrl
from .pyssf_renderings import ForeignRendering
from .request import RequestLimits, Service, shown_before, writer_of

log = logging.getLogger(__name__)

Dialect = Literal["1.2", "pyssf"]
StartResponse = Callable[..., Any]
Wsgi = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_EXTRAS: Final = "archelon.extras"


def _default_renderings(dialect: Dialect) -> dict[str, Rendering]:
    text_occi = TextOcci() if dialect == "1.2" else TextOcciHurtle()
    json = Json() if dialect == "1.2" else JsonPyssf()
    renderings: list[Rendering] = [TextPlain(), text_occi, json, Html(), UriList(), TextOcciPlain(), PlainJson()]
    return {each.mime_type: each for each in renderings}


class _Router(falcon.routing.CompiledRouter):
    """Falcon's router, which falls back to OCCI's three kinds of path."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._query = self._route(QueryEndpoint(service))
        self._collection = self._route(CollectionEndpoint(service))
        self._entity = self._route(EntityEndpoint(service))
        self._has_routes = False

    def _route(self, endpoint: Endpoint) -> tuple[Any, dict[str, Any], dict[str, Any], str | None]:
        # Not Falcon's own responder: its Allow is per class, OCCI's per path.
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
        return self._query if uri in QUERY_PATHS else self._collection


class Application:
    """An OCCI service as a WSGI callable.

    Args:
        registry: store of categories and entities, pyssf's too; in memory by default.
        renderings: media type to rendering, pyssf's too; replaces the default ones.
        dialect: `1.2`, or `pyssf` for clients from Hurtle's time.
        limits: sizes beyond which requests and responses are refused.
        base_url: URL that clients use, such as `https://occi.example.org`, for absolute URIs in responses. By default they repeat
            each request's `Host`, which is for services whose callers are all trusted.
        other_urls: further URLs of the service; a request whose `Host` is one of these gets it in the response.
        dry_runs: whether creating and updating take `?dry-run=true`, whose transaction is rolled back. If `extras["dry_run"]` is
            set, backends must leave out what no rollback undoes.
        new_id: generates the last part of new paths.

    Attributes:
        registry: as given.
        falcon: Falcon's application, for routes outside OCCI (`application.falcon.add_route("/healthz", …)`).
        default_fields: fields of responses that do not set them.
    """

    default_fields: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        registry: occi.registry.Registry | None = None,
        renderings: Mapping[str, occi.protocol.rendering.Rendering] | None = None,
        *,
        dialect: Dialect = "1.2",
        limits: RequestLimits | None = None,
        base_url: str | None = None,
        other_urls: Sequence[str] = (),
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
        dry_runs: bool = False,
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
            dry_runs=dry_runs,
            limits=limits or RequestLimits(),
            own_urls=tuple([OwnUrl.of(url) for url in (base_url, *other_urls) if url]),
            new_id=new_id,
        )
        self.server = f"archelon/{__version__} OCCI/1.2"
        self.added_fields: tuple[tuple[str, str], ...] = (("Server", self.server), *self.default_fields)
        self.falcon: falcon.App[falcon.Request, falcon.Response] = falcon.App(router=_Router(self._service))
        self.falcon.req_options.keep_blank_qs_values = True
        self.falcon.resp_options.default_media_type = "text/plain"
        self.falcon.add_error_handler(Exception, self._on_exception)
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
        """WSGI. A subclass that passes extras to its backends overrides this and calls `_call_occi`."""
        return self._call_occi(environ, response)

    def _call_occi(self, environ: dict[str, Any], response: StartResponse, **extras: Any) -> Iterable[bytes]:
        """Serve a request; `extras` reach every backend and the registry."""
        environ[_EXTRAS] = extras
        added = self.added_fields
        if environ.get("REQUEST_METHOD") == "GET":
            try:
                found = shown_before(environ, extras, self._service)
            except Exception as error:  # noqa: BLE001 - as Falcon's handlers do
                return self.render_exception(environ, response, error)
            if found is not None:
                response(falcon.HTTP_200, [*found.fields, *added])
                return [found.payload.body]

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            named = [name.lower() for name, _ in headers]
            headers += [each for each in added if each[0].lower() not in named]
            return response(status, headers)

        return self.falcon(environ, start)

    # errors -----------------------------------------------------------------------------------------------------------

    def _on_error(
        self, req: falcon.Request, resp: falcon.Response, error: HttpError | falcon.HTTPError, _params: Any
    ) -> None:
        """Render every error, in the rendering that the client accepts."""
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
            # The Accept field itself is the error.
            return self._service.renderings.get("text/plain") or TextPlain()

    def _on_exception(self, req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
        self._on_error(req, resp, self._http_error_of(error, req.method, req.path), params)

    def _http_error_of(self, error: Exception, method: str, path: str) -> HttpError:
        """Convert any exception to the error that the client gets, and log it."""
        refusal = error if isinstance(error, HttpError) else self.refusal_of(error)
        if refusal is None:
            log.error("unexpected error: %s %s", method, path, exc_info=error)
            return of_status(500, "an internal error occurred and was logged; the request did not cause it")
        if refusal.status >= 500:
            log.warning("answered with %d: %s", refusal.status, type(error).__name__, extra={"status": refusal.status})
        return refusal

    def refusal_of(self, _error: Exception) -> HttpError | None:
        """Return the HTTP error for an expected exception of a library, or None if the exception is a bug.

        A service overrides this for its dependencies, such as a database.
        """
        return None

    def render_error(self, environ: dict[str, Any], start_response: StartResponse, error: HttpError) -> Iterable[bytes]:
        """Respond with an error of a middleware, in the rendering that the client accepts (an `auth.ErrorRenderer`)."""
        req, resp = falcon.Request(environ), falcon.Response()
        self._on_error(req, resp, error, None)
        body = resp.data or b""
        fields = [(name, value) for name, value in resp.headers.items() if name not in ("content-length", "server")]
        # The error may depend on the token, which caches do not see.
        fields += [("Content-Length", str(len(body))), ("Cache-Control", "no-store"), ("Server", self.server)]
        start_response(str(resp.status), fields)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def render_exception(
        self, environ: dict[str, Any], start_response: StartResponse, error: Exception
    ) -> Iterable[bytes]:
        """Respond to an exception that a middleware raised, as if the application had raised it."""
        answer = self._http_error_of(error, environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", ""))
        return self.render_error(environ, start_response, answer)


class ErrorBoundary:
    """WSGI middleware, outside of all others: the application renders the exceptions that they raise.

    The server's own error page would have no rendering and no advice on retrying.

    Args:
        app: the wrapped middleware.
        application: renders the errors.
    """

    def __init__(self, app: Wsgi, application: Application) -> None:
        self._app = app
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """WSGI. Exceptions raised while the body is sent are too late for another response, and left to the server."""
        try:
            return self._app(environ, start_response)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and answered
            return self._application.render_exception(environ, start_response, error)


def _check_type_id(category: Category) -> None:
    # Every response that names the category splits its type identifier again.
    name = f"{category.scheme}{category.term}"
    try:
        split = split_type_id(name)
    except MalformedDocumentError as error:
        raise AttributeError(error.message) from None
    if split != (category.scheme, category.term):
        raise AttributeError(f"the scheme of {name!r} is {category.scheme!r}, and must end in #")


def _http_error(error: falcon.HTTPError) -> HttpError:
    """Convert an error of Falcon."""
    status = falcon.http_status_to_code(error.status)
    headers = dict(error.headers or {})
    return of_status(status, error.description or error.title or str(error.status), "request", headers=headers)
