"""Builds OCCI requests from documents, and entities from responses: the base of the client's methods.

It is the layer between `exchange` (bytes and HTTP) and `client` (the caller's operations), and converts paths between client and
server.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from ..renderings import (
    Bare,
    CategoryDocument,
    Collection,
    EntityDocument,
    MalformedDocumentError,
    Message,
    Payload,
    Reference,
    Rendering,
    UnsupportedDocumentError,
)
from ..renderings.grammar import quote, split_type_id, value_text
from ..renderings.text import to_header
from .address import Address
from .catalogue import Catalogue
from .connections import Answer
from .entities import Entity, EntityReader, FindCategory, located, path_of
from .errors import MalformedAnswerError, NotAcceptableError, UnknownCategoryError
from .exchange import Call, HttpExchange
from .refusals import repeats_secret
from .speech import Formats, has_no_content

QUERY = "/-/"
#: The target of a link to the next page.
_NEXT: Final = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?')
_LONGEST_AFTER: Final = 1024
#: In a filter: any value of an attribute.
ANY: Final = Bare("*")
T = TypeVar("T")
Locations = Callable[[str], str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """Filter and page of a collection.

    Attributes:
        categories: type identifiers that each entity must have.
        attributes: values that each entity must have; `ANY` for any.
        page: only that page, from 1; None for all of them, one after another.
        number: entities per page.
    """

    categories: Sequence[str] = ()
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    page: int | None = None
    number: int = 100

    def fields(self) -> dict[str, str]:
        """Return the filter as header fields."""
        fields: dict[str, str] = {}
        if self.categories:
            fields["Category"] = ", ".join([_category_field(each) for each in self.categories])
        if self.attributes:
            given = [f"{name}={value_text(value)}" for name, value in self.attributes.items()]
            fields["X-OCCI-Attribute"] = to_header(", ".join(given))
        return fields


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """One page of a collection, and its response."""

    found: Collection
    rendering: Rendering
    answer: Answer
    path: str


class Conversation:
    """The requests and responses of one client.

    Attributes:
        exchange, formats: as given.
        address: address of the service.
        locations: returns the location of a kind that the caller knows without the query interface, or None.
    """

    def __init__(
        self,
        exchange: HttpExchange,
        formats: Formats,
        catalogue: Catalogue | None = None,
        *,
        locations: Locations | None = None,
    ) -> None:
        self.exchange = exchange
        self.locations = locations
        self.formats = formats
        self.address: Address = exchange.address
        self.catalogue = catalogue or Catalogue(self._load, clock=exchange.waiting.clock)

    def with_formats(self, formats: Formats) -> Conversation:
        """Return a copy that uses another rendering."""
        return Conversation(self.exchange, formats, self.catalogue, locations=self.locations)

    # requests ---------------------------------------------------------------------------------------------------------

    def headers(self, if_match: str | None = None) -> dict[str, str]:
        """Return the header fields of a request without content."""
        headers = {"Accept": self.formats.entity.mime_type}
        if if_match is not None:
            headers["If-Match"] = if_match
        return headers

    def send(
        self,
        method: str,
        path: str,
        write: Callable[[Rendering], Payload],
        *,
        listing: bool = False,
        if_match: str | None = None,
        retry: bool = False,
    ) -> Answer:
        """Send a document, which `write` renders.

        Args:
            listing: whether it is a collection, which text/uri-list supports.
            retry: whether it may be retried although the method is not idempotent.
        """
        rendering = self.formats.collection if listing else self.formats.entity
        payload = write(rendering)
        headers = {**self.headers(if_match), "Content-Type": rendering.content_type, **dict(payload.headers)}
        body = b"" if rendering.headers_only else payload.body
        return self.exchange.call(Call(method, path, headers, body, retry=True if retry else None))

    def categories(self, named: Sequence[str] = ()) -> Sequence[CategoryDocument]:
        """Return the categories of the query interface: `named` and those related to them, or all."""
        headers = {"Accept": self.formats.entity.mime_type, **Filter(categories=named).fields()}
        answer = self.exchange.call(Call("GET", QUERY, headers))
        return self._read(
            answer, self.formats.entity, lambda rendering, message: rendering.read_categories(message), "GET", QUERY
        )[0]

    def _load(self) -> Sequence[CategoryDocument]:
        try:
            found = self.with_formats(Formats.of("application/occi+json")).categories()
        except NotAcceptableError:
            found = self.with_formats(Formats.of("text/plain")).categories()
        return found

    def collection(self, where: str) -> str:
        """Return the path of a collection, given by path or by the type identifier of a kind or mixin.

        Raises:
            UnknownCategoryError: the query interface does not contain the category, or it has no location.
        """
        if "#" not in where:
            path = self.address.path(where)
            if not path.partition("?")[0].endswith("/"):
                raise ValueError(f"{path!r} is not a collection: the path must end in a slash")
            return path
        found = self.catalogue.find(where)
        if found is None or found.location is None:
            lacks = "no category" if found is None else "no location for"
            url = self.address.url(QUERY)
            raise UnknownCategoryError(f"the query interface has {lacks} {where}", method="GET", url=url)
        with self._reading(Answer(200, {}), "GET", QUERY):
            return located(found.location, self.address)

    def pages(self, collection: str, wanted: Filter) -> Iterator[Page]:
        """Yield the pages of a collection, each requested when it is reached, up to the first that is not full."""
        if wanted.number < 1 or (wanted.page is not None and wanted.page < 1):
            raise ValueError("page and number must be whole numbers from 1")
        path = self.collection(collection)
        headers = {"Accept": self.formats.collection.mime_type, **wanted.fields()}
        page = wanted.page or 1
        position: dict[str, int | str] = {"page": page}
        before: object = None
        while True:
            query = urllib.parse.urlencode({**position, "number": wanted.number})
            answer = self.exchange.call(Call("GET", f"{path}?{query}", headers))
            found, rendering = self._read(
                answer,
                self.formats.collection,
                lambda rendering, message: rendering.read_collection(message),
                "GET",
                path,
            )
            now = (found.locations, [each.id for each in found.entities])
            if now == before:
                # A server without paging returns everything every time.
                return
            before = now
            yield Page(found, rendering, answer, path)
            page += 1
            # Of the link, only the position is used: the path stays this one, at this server.
            after = _after(answer)
            full = len(found.entities) + len(found.locations) >= wanted.number
            # From a page behind another, a server with links has none to the next only if there is none.
            if wanted.page is not None or (after is None and ("after" in position or not full)):
                return
            position = {"page": page} if after is None else {"after": after}

    # responses --------------------------------------------------------------------------------------------------------

    def entity(self, answer: Answer, path: str, method: str) -> Entity:
        """Return the entity in a response."""
        document, rendering = self._read(
            answer, self.formats.entity, lambda rendering, message: rendering.read_entity(message), method, path
        )
        etag = answer.headers.get("etag") if method == "GET" else None
        with self._reading(answer, method, path):
            return self.reader(rendering).read(document, location=path.partition("?")[0], etag=etag)

    def get(self, path: str, etag: str | None = None) -> Entity | None:
        """Return the entity at a path; None if it still has the etag."""
        headers = self.headers()
        if etag is not None:
            headers["If-None-Match"] = etag
        accepted = frozenset((304,)) if etag is not None else frozenset[int]()
        answer = self.exchange.call(Call("GET", path, headers, accepted=accepted))
        return None if answer.status == 304 else self.entity(answer, path, "GET")

    def present(self, path: str) -> Entity:
        """Return the entity at a path."""
        answer = self.exchange.call(Call("GET", path, self.headers()))
        return self.entity(answer, path, "GET")

    def shown(self, answer: Answer, path: str, method: str) -> Entity:
        """Return the entity in the response to a write, or read it if the server only confirmed."""
        return self.present(path) if has_no_content(answer) else self.entity(answer, path, method)

    def reader(self, rendering: Rendering) -> EntityReader:
        """Return the converter of this rendering's documents."""
        return EntityReader(self.address, self._finder(rendering), textual=not rendering.shows_entities)

    def _finder(self, rendering: Rendering) -> FindCategory:
        """Return the lookup of categories: of their locations alone in a rendering that needs no more of them."""
        return self._placed if rendering.shows_entities else self.catalogue.find

    def _placed(self, type_id: str) -> CategoryDocument | None:
        known = self.locations(type_id) if self.locations is not None else None
        return CategoryDocument(*split(type_id), "kind", location=known) if known else self.catalogue.find(type_id)

    def entities(self, page: Page) -> Iterator[Entity]:
        """Yield the entities that a page contains whole."""
        reader = self.reader(page.rendering)
        for each in page.found.entities:
            with self._reading(page.answer, "GET", page.path):
                entity = reader.read(each)
            yield entity

    def paths(self, page: Page, *, whole: bool = True) -> list[str]:
        """Return the paths of a page's entities; without `whole`, of those that it contains by location only."""
        with self._reading(page.answer, "GET", page.path):
            find = self._finder(page.rendering)
            known = [path_of(each, find, self.address) for each in page.found.entities if whole]
            return known + [located(each, self.address) for each in page.found.locations]

    def created_at(self, answer: Answer, method: str, path: str) -> str:
        """Return the location of the created entity."""
        field = answer.headers.get("location")
        with self._reading(answer, method, path):
            if not field:
                raise MalformedDocumentError("the response has no location of the created entity", "header Location")
            return located(field, self.address)

    def _read(
        self,
        answer: Answer,
        asked: Rendering,
        read: Callable[[Rendering, Message], T],
        method: str,
        path: str,
    ) -> tuple[T, Rendering]:
        with self._reading(answer, method, path):
            return self.formats.read(answer, asked, read)

    @contextlib.contextmanager
    def _reading(self, answer: Answer, method: str, path: str) -> Iterator[None]:
        """Convert errors in a response's text to the client's error, with method and URL of the request."""
        try:
            yield
        except (MalformedDocumentError, UnsupportedDocumentError) as error:
            # The error quotes a truncated part of the response, which could be part of a token.
            quoted = "its text repeats a credential" if repeats_secret(answer) else str(error)
            message = f"the response cannot be read: {quoted}"
            # Without the cause, whose text repeats the server's.
            raise MalformedAnswerError(message, method=method, url=self.address.url(path)) from None

    # documents --------------------------------------------------------------------------------------------------------

    def outgoing(self, document: EntityDocument) -> EntityDocument:
        """Return a caller's document with its paths converted to the server's."""
        if not self.address.prefix:
            return document

        def here(uri: str | None) -> str | None:
            return self.address.target(uri) if uri is not None and uri.startswith("/") else uri

        def end(reference: Reference | None) -> Reference | None:
            return None if reference is None else Reference(here(reference.location) or "", reference.kind)

        return dataclasses.replace(
            document,
            id=here(document.id),
            location=here(document.location),
            source=end(document.source),
            target=end(document.target),
            links=[self.outgoing(link) for link in document.links],
        )

    def members(self, locations: Iterable[str]) -> Collection:
        """Return entities, given by their paths, as a document for the server."""
        return Collection(locations=[self.address.target(self.address.path(each)) for each in locations])


def _after(answer: Answer) -> str | None:
    """Return the position of the next page, of the response's link to it (RFC 8288); None without one."""
    found = _NEXT.search(answer.headers.get("link", ""))
    given = urllib.parse.parse_qs(urllib.parse.urlsplit(found[1]).query).get("after", []) if found else []
    return given[0] if len(given) == 1 and len(given[0]) <= _LONGEST_AFTER else None


def split(type_id: str) -> tuple[str, str]:
    """Return scheme and term of a caller's type identifier. Raises ValueError."""
    return split_type_id(type_id)


def _category_field(type_id: str) -> str:
    scheme, term = split(type_id)
    return to_header(f"{term}; scheme={quote(scheme)}")


def check_entity(path: str) -> None:
    """Check that a path is not a collection's: a superfluous slash would delete all entities."""
    if path.partition("?")[0].endswith("/"):
        raise ValueError(f"{path!r} is a collection; use the methods for all of its entities")


def decoded(pieces: Iterator[bytes]) -> Iterator[str]:
    """Decode UTF-8 pieces; a character split over two pieces is yielded with the second, an invalid one as U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        for piece in pieces:
            text = decoder.decode(piece)
            if text:
                yield text
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest
    finally:
        closing = getattr(pieces, "close", None)
        if closing is not None:
            closing()
