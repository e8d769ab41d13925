"""One request and its response: caller, renderings, addresses.

An `Exchange` is created once per request and passed down. It maps paths to URIs for the client (`location_of`) and back
(`identifier_of`), and converts entities to documents and documents to a response.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import falcon
from occi.core_model import Category, Entity, Kind, Link, Resource

from archelon_core.errors import (
    BadRequestError,
    NotAcceptableError,
    NotImplementedByProtocolError,
    UnsupportedMediaTypeError,
    shown,
)
from archelon_core.transactions import forbid_in_transaction

from ..model import RemoteResource, category_document, secrets_of, type_id
from ..registry.base import Registry
from ..renderings import (
    CategoryDocument,
    Collection,
    EntityDocument,
    JsonPyssf,
    MalformedDocumentError,
    Message,
    Payload,
    Reference,
    Rendering,
    UnsupportedDocumentError,
)
from ..renderings.text import FIELDS, from_header
from . import backends, negotiation
from .own_urls import OwnUrl, chosen, requested
from .pyssf_renderings import ForeignRendering
from .rendered import Rendered, RenderedEntities
from .request_input import read_body

#: Writes a response, after the transaction that it reports on has committed.
Answer = Callable[[], None]

VERSION: Final = (1, 2)
#: Request fields that a response to a GET depends on, besides the path: filters are header fields.
_VARY: Final = "Accept, Category, X-OCCI-Attribute"
UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_AGENT_VERSION: Final = re.compile(r"OCCI/([0-9]{1,9})\.([0-9]{1,9})")
#: Permitted paths: characters that need no encoding in a URI and have no meaning in the text grammar.
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+=:@]+)+/?")


@dataclasses.dataclass(frozen=True, slots=True)
class RequestLimits:
    """Sizes beyond which a request or a response is refused.

    Attributes:
        body: bytes of a request's body.
        page: entities of one response, and entities, links or members that one request may name.
        filters: categories and attributes of one selection. Each is a database join, and planning time grows faster than their
            number.
        mixins: mixins that a tenant may define; one request may name a tenth of them.
        header: bytes of a response's header fields in text/occi; clients and proxies truncate or refuse more.
        path: characters of a path.
    """

    body: int = 1 << 20
    page: int = 1000
    filters: int = 16
    mixins: int = 1000
    header: int = 16 << 10
    path: int = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """State shared by all requests of one application.

    Attributes:
        offered: media types of responses, best first; `readable`, those of requests.
        dialect: `1.2` or `pyssf`.
        dry_runs: whether creating and updating take `?dry-run=true`; see `Application`.
        own_urls: URLs that clients use, the public one first; empty to take scheme and host from each request.
        new_id: generates the last part of new identifiers.
        rendered: entities as rendered for earlier requests.
    """

    registry: Registry
    renderings: dict[str, Rendering]
    offered: tuple[str, ...]
    readable: tuple[str, ...]
    dialect: str
    dry_runs: bool
    limits: RequestLimits
    own_urls: tuple[OwnUrl, ...]
    new_id: Callable[[], uuid.UUID]
    rendered: RenderedEntities = dataclasses.field(default_factory=RenderedEntities)


class Exchange:
    """One request and its response; see the module."""

    __slots__ = (
        "_base",
        "_body",
        "_rendering",
        "ahead",
        "checked",
        "documents",
        "dry_run",
        "extras",
        "prefix",
        "registry",
        "request",
        "response",
        "service",
    )

    def __init__(self, request: falcon.Request, response: falcon.Response, service: Service) -> None:
        self.request = request
        self.response = response
        self.service = service
        self.registry = service.registry
        environ = request.env
        self.extras: Any = environ.get("archelon.extras")
        own = chosen(service.own_urls, environ)
        self.prefix: str = _prefix(own, environ)
        self._base: str | None = own.origin if own is not None else None
        self._body: bytes | None = None
        self._rendering: Rendering | None = None
        #: Parsed documents of the request, or the error, by the rendering's method.
        self.documents: dict[str, Any] = {}
        #: Results of slow attribute checks, values or errors, by place and pattern.
        self.checked: dict[str, Any] = {}
        #: Parses and checks the request as its write will; for `backends.call_first`.
        self.ahead: Callable[[], Any] = lambda: None
        _check_version(environ)
        #: Whether the client asks for the response alone, with nothing changed; backends find it in the extras.
        self.dry_run = bool(environ.get("QUERY_STRING")) and self._asks_for_dry_run()

    def _asks_for_dry_run(self) -> bool:
        given = self.request.get_param_as_list("dry-run")
        if given is None:
            return False
        if given != ["true"]:
            raise BadRequestError("expected ?dry-run=true", "query dry-run")
        if not self.service.dry_runs:
            # Otherwise the request would be carried out.
            raise BadRequestError("this service has no dry runs", "query dry-run")
        self.extras["dry_run"] = True
        return True

    def find(self, identifier: str) -> Entity | None:
        """Return the entity of an identifier, or None."""
        try:
            return self.registry.get_resource(identifier, self.extras)
        except KeyError:
            return None

    # addresses --------------------------------------------------------------------------------------------------------

    @property
    def base(self) -> str:
        """Scheme and host under which this client reaches the service, without a trailing slash."""
        if self._base is None:
            self._base = requested(self.request.env)
        return self._base

    def _known(self) -> tuple[OwnUrl, ...]:
        """Return this service's URLs as a client may write them: its own, and the one that this request is sent to."""
        if not self.service.own_urls:
            return (OwnUrl(self.base),)
        with contextlib.suppress(BadRequestError):
            return (*self.service.own_urls, OwnUrl(requested(self.request.env)))
        return self.service.own_urls

    def path_of(self, identifier: str) -> str:
        """Return an identifier as a URI reference for this client: the path with the mount point, or an absolute URI."""
        return self.prefix + identifier if identifier.startswith("/") else identifier

    def location_of(self, identifier: str) -> str:
        """Return an identifier as an absolute URI."""
        return self.base + self.prefix + identifier if identifier.startswith("/") else identifier

    def identifier_of(self, uri: str, kind: str | None = None) -> str | None:
        """Return the identifier that a URI from this client refers to; None if it leads to another host.

        `urn:uuid:…` refers to the entity of that id below the location of its kind, which is then required.
        """
        if uri.startswith("urn:uuid:"):
            found = self.registry.find_category(kind, self.extras) if kind else None
            return found.location + uri[9:] if isinstance(found, Kind) else None
        prefix = self.prefix
        for url in self._known():
            if uri.startswith(f"{url.origin}{url.path}/"):
                uri = uri[len(url.origin) :]
                prefix = url.path + self.request.env.get("SCRIPT_NAME", "")
                break
        if not uri.startswith("/") or uri.startswith("//"):
            return None
        return uri[len(prefix) :] if prefix and uri.startswith(prefix + "/") else uri

    def checked_path(self, path: str) -> str:
        """Validate and return a path at which an entity is to be created.

        Raises:
            BadRequestError: it is too long, or has characters or segments with more than one reading.
        """
        segments = path.split("/")
        if len(path) > self.service.limits.path or _PATH.fullmatch(path) is None or "." in segments or ".." in segments:
            raise BadRequestError(
                f"{shown(path)} cannot be an entity's path: letters, digits and -._~!$&'()*+=:@ between single "
                f"slashes, at most {self.service.limits.path} characters",
                "path",
            )
        return path

    # reading ----------------------------------------------------------------------------------------------------------

    @property
    def body(self) -> bytes:
        """The request's body, in UTF-8. Raises TooLargeError if it is larger than the limit."""
        if self._body is None:
            body = read_body(self.request, self.service.limits.body)
            declared_latin_1 = negotiation.is_latin_1(self.request.env.get("CONTENT_TYPE"))
            self._body = body.decode("latin-1").encode() if declared_latin_1 else body
        return self._body

    @property
    def message(self) -> Message:
        """The request as input of the renderings."""
        environ = self.request.env
        headers: dict[str, str] = {}
        for lower, name in FIELDS.items():
            value = environ.get("HTTP_" + lower.upper().replace("-", "_"))
            if value is not None:
                try:
                    headers[lower] = from_header(value)
                except MalformedDocumentError as error:
                    raise BadRequestError(error.message, f"header {name}") from None
        return Message(headers, self.body)

    def reader(self) -> Rendering:
        """Return the rendering of the request's media type."""
        media_type = negotiation.content_type(
            self.request.env.get("CONTENT_TYPE"), self.service.readable, has_body=bool(self.body)
        )
        found = self.service.renderings.get(media_type)
        if found is None:
            readable = ", ".join(self.service.readable)
            raise UnsupportedMediaTypeError(f"the request must have one of the media types {readable}", "Content-Type")
        return found

    # writing ----------------------------------------------------------------------------------------------------------

    @property
    def writer(self) -> Rendering:
        """The rendering that the client accepts."""
        if self._rendering is None:
            accepted = _accepted(self.request.env, self.service)
            self._rendering = self.service.renderings[accepted].mounted_at(self.prefix)
        return self._rendering

    def negotiate(self) -> None:
        """Raise if no acceptable response is possible, before anything is done."""
        _ = self.writer

    def receive(self) -> None:
        """Read the whole body before a unit of work begins, in which all other writers would wait for a slow client."""
        _ = self.body

    def expect_entity(self) -> None:
        """Raise, before a backend is called, if the accepted rendering cannot show an entity."""
        if not self.writer.holds_entities:
            raise BadRequestError(str(UnsupportedDocumentError(self.writer.mime_type, "an entity")), "header Accept")

    def document(self, entity: Entity, *, listed: bool = False) -> EntityDocument:
        """Return an entity as a document, without the secrets that the caller may not see, and without any if it is `listed`."""
        attributes = entity.attributes
        hidden = (secrets_of(entity) if listed else self._withheld(entity)) if attributes else frozenset()
        shown_attributes = {
            name: value
            for name, value in attributes.items()
            if value is not None and name not in hidden and not name.startswith("occi.core.")
        }
        document = EntityDocument(
            kind=type_id(entity.kind),
            id=self.id_of(entity),
            mixins=[type_id(mixin) for mixin in entity.mixins] if entity.mixins else [],
            attributes=shown_attributes,
            title=entity.title or attributes.get("occi.core.title"),
            actions=[type_id(action) for action in entity.actions] if entity.actions else [],
            location=self.path_of(entity.identifier),
        )
        if isinstance(entity, Link):
            document.source = Reference(self.path_of(entity.source.identifier), type_id(entity.source.kind))
            target = entity.target
            target_kind = None if isinstance(target, RemoteResource) and not target.kind.related else target.kind
            document.target = Reference(
                self.path_of(target.identifier), type_id(target_kind) if target_kind is not None else None
            )
        elif isinstance(entity, Resource):
            document.summary = entity.summary or attributes.get("occi.core.summary")
            if entity.links:
                document.links = [self.document(link, listed=True) for link in entity.links]
        if isinstance(self.writer, JsonPyssf):
            categories: list[Category] = [entity.kind, *entity.mixins, *entity.actions]
            document.definitions = {type_id(each): self.category(each) for each in categories}
        return document

    def _withheld(self, entity: Entity) -> frozenset[str]:
        """Return the names of the attributes hidden from this caller; the application provides `extras["withheld"]`."""
        if not isinstance(self.extras, dict):
            return frozenset()
        ask: Callable[[Entity], frozenset[str]] | None = self.extras.get("withheld")
        return frozenset() if ask is None else ask(entity)

    def seen(self, entity: Entity) -> dict[str, Any]:
        """Return the attributes visible to this caller; hidden secrets must not be compared with what it sends."""
        return dict(self._shown(entity).attributes)

    def _shown(self, entity: Entity) -> Entity:
        """Return the entity with hidden attributes removed, for renderings that take entities."""
        withheld = self._withheld(entity)
        if not withheld:
            return entity
        seen = copy.copy(entity)
        seen.attributes = {name: value for name, value in entity.attributes.items() if name not in withheld}
        return seen

    def id_of(self, entity: Entity) -> str:
        """Return the entity's id: `urn:uuid:…` if its path is its kind's location and a UUID, else the path."""
        identifier = entity.identifier
        if self.service.dialect != "pyssf":
            location, last = identifier[:-36], identifier[-36:]
            if location == entity.kind.location and UUID.fullmatch(last) is not None:
                return "urn:uuid:" + last
        return self.path_of(identifier)

    def category(self, category: Category) -> CategoryDocument:
        """Return a category as a document."""
        document = category_document(category)
        if document.location is not None:
            # pyssf wrote absolute locations.
            spell = self.location_of if self.service.dialect == "pyssf" else self.path_of
            document.location = spell(document.location)
        return document

    def answer_entity(self, entity: Entity) -> Answer:
        """Capture an entity as it is now and return the function that responds with it, outside the write's transaction.

        Raises:
            NotAcceptableError: it does not fit into header fields, which the client asks for.
        """
        writer = self.writer
        if isinstance(writer, ForeignRendering):
            payload = writer.write_pyssf_entity(self._shown(entity), self)
            return lambda: self._answer(payload)
        document = self.document(entity)
        if writer.headers_only:
            # Small enough to render now; whether it fits must be known while the write can be undone.
            payload = self._entity(document)
            return lambda: self._answer(payload)
        return lambda: self._answer(self._entity(document))

    def _entity(self, document: EntityDocument) -> Payload:
        writer = self.writer
        if not writer.headers_only:
            return self._write(writer.write_entity, document)
        self._check_header(_least_size(document.attributes))
        payload = self._write(writer.write_entity, document)
        self._check_header(_header_size(payload))
        return payload

    def show_stored(self, identifier: str) -> bool:
        """Respond to GET with an entity: as rendered before, if what is stored and the caller's view are the same.

        Returns:
            False if there is none, or the caller does not see it.
        """
        try:
            reading = self.registry.read(identifier, self.extras)
        except KeyError:
            return False
        service, writer = self.service, self.writer
        view = self.extras.get("view") if isinstance(self.extras, dict) else None
        # pyssf's renderings show more than the entity: the definitions of its categories, with absolute locations.
        lasts = view is not None and service.dialect != "pyssf" and not isinstance(writer, ForeignRendering)
        key = (identifier, view, writer.mime_type, self.prefix)
        state = reading.state
        if lasts and state is not None:
            found = service.rendered.get(key)
            if found is not None and found.state == state:
                self._answer(found.payload, tag=found.tag)
                return True
        try:
            entity = reading.entity()
        except KeyError:
            return False
        with backends.refusals():
            as_stored = backends.retrieve(entity, self.registry, self.extras)
        if not lasts or not as_stored or reading.state is None:
            self.answer_entity(entity)()
            return True
        payload = self._entity(self.document(entity))
        tag = etag_of(writer, payload)
        self._answer(payload, tag=tag)
        fields = (*self.response.headers.items(), ("content-length", str(len(payload.body))))
        service.rendered.put(key, Rendered(payload, tag, state, fields), reading.size)
        return True

    def answer_entities(self, entities: list[Entity]) -> Answer:
        """Capture a collection as it is now; see `answer_entity`."""
        writer = self.writer
        if isinstance(writer, ForeignRendering):
            payload = writer.write_pyssf_entities([self._shown(each) for each in entities], self)
            return lambda: self._answer(payload)
        collection = Collection()
        if writer.shows_entities:
            collection.entities = [self.document(entity, listed=True) for entity in entities]
        else:
            collection.locations = [self.location_of(entity.identifier) for entity in entities]
        return lambda: self._answer(self._write(writer.write_collection, collection))

    def fits_header(self, identifiers: list[str]) -> bool:
        """Return whether the client's rendering can hold the locations of these entities (in header fields)."""
        needed = sum([len(self.location_of(each)) + 2 for each in identifiers])
        return not self.writer.headers_only or needed + 64 < self.service.limits.header

    def answer_categories(self, categories: list[Category]) -> Answer:
        """Capture categories; see `answer_entity`."""
        writer = self.writer
        if isinstance(writer, ForeignRendering):
            payload = writer.write_pyssf_categories(categories, self)
            return lambda: self._answer(payload)
        documents = [self.category(category) for category in categories]
        return lambda: self._answer(self._write(writer.write_categories, documents))

    def answer_created(self, entity: Entity) -> Answer:
        """Return the function that responds with 201 and the location; for a dry run with 200 and the entity itself."""
        if self.dry_run:
            return self.answer_entity(entity)
        # Within the transaction, since an invalid Host refuses the request.
        location = self.location_of(entity.identifier)

        def answer() -> None:
            self._answer(self.writer.write_done(), status=falcon.HTTP_201, etag=False)
            self.response.set_header("Location", location)

        return answer

    def show_done(self) -> None:
        """Respond with success and no content to show."""
        self._answer(self.writer.write_done(), etag=False)

    def _write(self, write: Callable[[Any], Payload], document: Any) -> Payload:
        if not self.writer.headers_only:
            forbid_in_transaction("rendering of a response")
        try:
            return write(document)
        except UnsupportedDocumentError as error:
            raise BadRequestError(str(error), "header Accept") from None

    def _answer(
        self, payload: Payload, *, status: str = falcon.HTTP_200, etag: bool = True, tag: str | None = None
    ) -> None:
        writer = self.writer
        response = self.response
        if payload.headers:
            if writer.headers_only:
                self._check_header(_header_size(payload))
            for name, value in payload.headers:
                response.set_header(name, value)
        response.content_type = writer.content_type
        response.set_header("Vary", _VARY)
        if etag and self.request.method in ("GET", "HEAD"):
            tag = tag or etag_of(writer, payload)
            response.set_header("ETag", tag)
            if _lists(self.request.env.get("HTTP_IF_NONE_MATCH"), tag):
                response.status = falcon.HTTP_304
                return
        response.status = status
        response.data = payload.body

    def _check_header(self, size: int) -> None:
        limit = self.service.limits.header
        if size > limit:
            raise NotAcceptableError(
                f"in {self.writer.mime_type} this response needs {size} bytes of header, more than the limit of {limit}; "
                "ask for text/plain or application/occi+json",
                "header Accept",
            )

    def etags_of(self, entity: Entity) -> list[str]:
        """Return the entity's tag in every rendering: a client may read in one and write in another."""
        forbid_in_transaction("rendering of an entity")
        tags = []
        chosen = self._rendering
        for rendering in self.service.renderings.values():
            self._rendering = mounted = rendering.mounted_at(self.prefix)
            if isinstance(mounted, ForeignRendering):
                tags.append(etag_of(mounted, mounted.write_pyssf_entity(self._shown(entity), self)))
                continue
            with contextlib.suppress(UnsupportedDocumentError):
                tags.append(etag_of(mounted, mounted.write_entity(self.document(entity))))
        self._rendering = chosen
        return tags


def writer_of(request: falcon.Request, service: Service) -> Rendering:
    """Return the rendering that a request accepts.

    Raises:
        BadRequestError, NotAcceptableError: see `negotiation.accepted`.
    """
    prefix = _prefix(chosen(service.own_urls, request.env), request.env)
    return service.renderings[_accepted(request.env, service)].mounted_at(prefix)


def _prefix(own: OwnUrl | None, environ: Mapping[str, Any]) -> str:
    script: str = environ.get("SCRIPT_NAME", "")
    return script if own is None else own.path + script


def _accepted(environ: Mapping[str, Any], service: Service) -> str:
    default = service.registry.get_default_type()
    if default not in service.renderings:
        default = service.offered[0]
    return negotiation.accepted(environ.get("HTTP_ACCEPT"), service.offered, default)


def shown_before(environ: Mapping[str, Any], extras: dict[str, Any], service: Service) -> Rendered | None:
    """Return the response to a GET if an entity was shown before and is unchanged: as `Exchange.show_stored`, without Falcon.

    Returns:
        None if the request has to be served in full; it may have a query or a condition.
    """
    path, view = environ.get("PATH_INFO", ""), extras.get("view")
    if view is None or environ.get("QUERY_STRING") or "HTTP_IF_NONE_MATCH" in environ or not path.isascii():
        return None
    _check_version(environ)
    prefix = _prefix(chosen(service.own_urls, environ), environ)
    found = service.rendered.get((path, view, _accepted(environ, service), prefix))
    if found is None:
        return None
    try:
        return found if service.registry.state(path, extras) == found.state else None
    except KeyError:
        return None


def etag_of(rendering: Rendering, payload: Payload) -> str:
    """Return a strong tag: a digest of everything that the rendering wrote (RFC 9110, 8.8.3)."""
    digest = hashlib.blake2b(payload.body, digest_size=12)
    for name, value in payload.headers:
        digest.update(f"{name}:{value}\n".encode("utf-8", "surrogatepass"))
    digest.update(rendering.mime_type.encode())
    return f'"{digest.hexdigest()}"'


def _header_size(payload: Payload) -> int:
    return sum([len(name) + len(value) + 4 for name, value in payload.headers])


def _least_size(value: Any) -> int:
    """Return the least number of characters that any rendering of a value takes."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum([len(name) + _least_size(each) for name, each in value.items()])
    if isinstance(value, list | tuple):
        return sum([_least_size(each) for each in value])
    return 1


def _lists(field: str | None, tag: str) -> bool:
    """Return whether a list of entity tags contains one; weak comparison (RFC 9110, 8.8.3.2)."""
    if field is None:
        return False
    return field.strip() == "*" or tag in [each.strip().removeprefix("W/") for each in field.split(",")]


def names_any(field: str, tags: list[str]) -> bool:
    """Return whether an If-Match field contains one of the tags; strong comparison."""
    given = [each.strip() for each in field.split(",")]
    return "*" in given or any(tag in given for tag in tags)


def _check_version(environ: Mapping[str, Any]) -> None:
    agent = environ.get("HTTP_USER_AGENT")
    if agent is None or "OCCI/" not in agent:
        return
    for major, minor in _AGENT_VERSION.findall(agent[:1024]):
        if (int(major), int(minor)) > VERSION:
            raise NotImplementedByProtocolError(
                f"the client speaks OCCI/{major}.{minor}; this service speaks OCCI/1.2 and 1.1", "header User-Agent"
            )
