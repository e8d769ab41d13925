"""OCCI requests made of documents, and entities made of answers: what every method of the client is built from.

Between `exchange`, which knows bytes and HTTP, and `client`, which knows what a caller wants. Paths of the caller become
paths of the server on the way out, and come back on the way in.
"""

from __future__ import annotations

import codecs
import dataclasses
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..renderings import (
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
from .entities import Entity, EntityReader, located, path_of
from .errors import MalformedAnswerError, NotAcceptableError, UnknownCategoryError
from .exchange import Call, HttpExchange
from .refusals import repeats_secret
from .speech import Speech, says_nothing

QUERY = "/-/"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """Which of a collection's entities, and which pages.

    Attributes:
        categories: type identifiers that each has to have.
        attributes: values that each has to have.
        page: that page only, from 1; None for all of them, one after the other.
        number: entities a page.
    """

    categories: Sequence[str] = ()
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    page: int | None = None
    number: int = 100

    def fields(self) -> dict[str, str]:
        """The filter as header fields."""
        fields: dict[str, str] = {}
        if self.categories:
            fields["Category"] = ", ".join([_category_field(each) for each in self.categories])
        if self.attributes:
            given = [f"{name}={value_text(value)}" for name, value in self.attributes.items()]
            fields["X-OCCI-Attribute"] = to_header(", ".join(given))
        return fields


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """One page of a collection, and the answer that it came in."""

    found: Collection
    rendering: Rendering
    answer: Answer
    path: str


class Conversation:
    """What one client says and hears.

    Attributes:
        exchange, speech: as given.
        address: where the service is.
    """

    def __init__(self, exchange: HttpExchange, speech: Speech, catalogue: Catalogue | None = None) -> None:
        self.exchange = exchange
        self.speech = speech
        self.address: Address = exchange.address
        self.catalogue = catalogue or Catalogue(self._load, clock=exchange.waiting.clock)

    def with_speech(self, speech: Speech) -> Conversation:
        """The same in another rendering."""
        return Conversation(self.exchange, speech, self.catalogue)

    # asking -----------------------------------------------------------------------------------------------------------

    def headers(self, if_match: str | None = None) -> dict[str, str]:
        """The fields of a request that shows nothing and expects little."""
        headers = {"Accept": self.speech.whole.mime_type}
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
        """Send what `write` makes of the client's rendering.

        Args:
            listing: whether it is a collection, which text/uri-list can hold.
            retry: whether it may be sent again even though the method is not idempotent.
        """
        rendering = self.speech.listing if listing else self.speech.whole
        payload = write(rendering)
        headers = {**self.headers(if_match), "Content-Type": rendering.content_type, **dict(payload.headers)}
        body = b"" if rendering.headers_only else payload.body
        return self.exchange.call(Call(method, path, headers, body, retry=True if retry else None))

    def categories(self, named: Sequence[str] = ()) -> Sequence[CategoryDocument]:
        """What the query interface shows, of `named` and those related to them, or of all."""
        headers = {"Accept": self.speech.whole.mime_type, **Filter(categories=named).fields()}
        answer = self.exchange.call(Call("GET", QUERY, headers))
        return self._read(
            answer, self.speech.whole, lambda rendering, message: rendering.read_categories(message), "GET", QUERY
        )[0]

    def _load(self) -> Sequence[CategoryDocument]:
        try:
            found = self.with_speech(Speech.of("application/occi+json")).categories()
        except NotAcceptableError:
            found = self.with_speech(Speech.of("text/plain")).categories()
        return found

    def collection(self, where: str) -> str:
        """The path of a collection that is named by path, or by the type identifier of a kind or mixin.

        Raises:
            UnknownCategoryError: the service shows no such category, or it has no location.
        """
        if "#" not in where:
            path = self.address.path(where)
            if not path.partition("?")[0].endswith("/"):
                raise ValueError(f"{path!r} is not a collection: its path ends in a slash")
            return path
        found = self.catalogue.find(where)
        if found is None or found.location is None:
            lacks = "no category" if found is None else "no location for"
            raise UnknownCategoryError(f"the service shows {lacks} {where}", method="GET", url=self.address.url(QUERY))
        with _Hearing("GET", self.address.url(QUERY), Answer(200, {})):
            return located(found.location, self.address)

    def pages(self, collection: str, wanted: Filter) -> Iterator[Page]:
        """The pages of a collection, each asked for when it is reached, up to the first that is not full."""
        if wanted.number < 1 or (wanted.page is not None and wanted.page < 1):
            raise ValueError("page and number are whole numbers from 1")
        path = self.collection(collection)
        headers = {"Accept": self.speech.listing.mime_type, **wanted.fields()}
        page = wanted.page or 1
        before: object = None
        while True:
            query = urllib.parse.urlencode({"page": page, "number": wanted.number})
            answer = self.exchange.call(Call("GET", f"{path}?{query}", headers))
            found, rendering = self._read(
                answer, self.speech.listing, lambda rendering, message: rendering.read_collection(message), "GET", path
            )
            now = (found.locations, [each.id for each in found.entities])
            if now == before:
                # A server that knows no pages shows everything every time.
                return
            before = now
            yield Page(found, rendering, answer, path)
            if wanted.page is not None or len(found.entities) + len(found.locations) < wanted.number:
                return
            page += 1

    # hearing ----------------------------------------------------------------------------------------------------------

    def entity(self, answer: Answer, path: str, method: str) -> Entity:
        """The entity that an answer shows."""
        document, rendering = self._read(
            answer, self.speech.whole, lambda rendering, message: rendering.read_entity(message), method, path
        )
        etag = answer.headers.get("etag") if method == "GET" else None
        with self._hearing(answer, method, path):
            return self.reader(rendering).read(document, location=path.partition("?")[0], etag=etag)

    def get(self, path: str, etag: str | None = None) -> Entity | None:
        """The entity at a path; None if it still has the etag."""
        headers = self.headers()
        if etag is not None:
            headers["If-None-Match"] = etag
        accepted = frozenset((304,)) if etag is not None else frozenset[int]()
        answer = self.exchange.call(Call("GET", path, headers, accepted=accepted))
        return None if answer.status == 304 else self.entity(answer, path, "GET")

    def present(self, path: str) -> Entity:
        """The entity at a path."""
        answer = self.exchange.call(Call("GET", path, self.headers()))
        return self.entity(answer, path, "GET")

    def shown(self, answer: Answer, path: str, method: str) -> Entity:
        """The entity that the answer to a write shows, or that a GET shows where the server only says `OK`."""
        return self.present(path) if says_nothing(answer) else self.entity(answer, path, method)

    def reader(self, rendering: Rendering) -> EntityReader:
        """Makes entities of documents of this rendering."""
        return EntityReader(self.address, self.catalogue.find, textual=not rendering.shows_entities)

    def entities(self, page: Page) -> Iterator[Entity]:
        """The entities that a page shows whole."""
        reader = self.reader(page.rendering)
        for each in page.found.entities:
            with self._hearing(page.answer, "GET", page.path):
                entity = reader.read(each)
            yield entity

    def paths(self, page: Page, *, whole: bool = True) -> list[str]:
        """The paths of a page's entities; without `whole`, of those that it shows by location only."""
        with self._hearing(page.answer, "GET", page.path):
            known = [path_of(each, self.catalogue.find, self.address) for each in page.found.entities if whole]
            return known + [located(each, self.address) for each in page.found.locations]

    def created_at(self, answer: Answer, method: str, path: str) -> str:
        """Where the answer says that something was created."""
        field = answer.headers.get("location")
        with self._hearing(answer, method, path):
            if not field:
                raise MalformedDocumentError("the answer does not say where the entity was created", "header Location")
            return located(field, self.address)

    def _read(
        self,
        answer: Answer,
        asked: Rendering,
        read: Callable[[Rendering, Message], T],
        method: str,
        path: str,
    ) -> tuple[T, Rendering]:
        with self._hearing(answer, method, path):
            return self.speech.read(answer, asked, read)

    def _hearing(self, answer: Answer, method: str, path: str) -> _Hearing:
        return _Hearing(method, self.address.url(path), answer)

    # documents --------------------------------------------------------------------------------------------------------

    def outgoing(self, document: EntityDocument) -> EntityDocument:
        """A caller's document with its paths as the server has them."""
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
        """Entities by their paths, as a document for the server."""
        return Collection(locations=[self.address.target(self.address.path(each)) for each in locations])


class _Hearing:
    """What is wrong with an answer's text becomes the client's error, with the request that it answered."""

    def __init__(self, method: str, url: str, answer: Answer) -> None:
        self._method = method
        self._url = url
        self._answer = answer

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _at: object) -> None:
        if isinstance(error, MalformedDocumentError | UnsupportedDocumentError):
            # The error quotes the answer, and cuts what it quotes: half a token is not to be seen either.
            quoted = "what it says repeats a credential" if repeats_secret(self._answer) else str(error)
            message = f"the answer cannot be read: {quoted}"
            # Without its cause, whose text repeats the server's.
            raise MalformedAnswerError(message, method=self._method, url=self._url) from None


def split(type_id: str) -> tuple[str, str]:
    """Scheme and term of a type identifier from a caller. Raises ValueError."""
    return split_type_id(type_id)


def _category_field(type_id: str) -> str:
    scheme, term = split(type_id)
    return to_header(f"{term}; scheme={quote(scheme)}")


def check_entity(path: str) -> None:
    """See that a path is not a collection's: one slash too many would delete them all."""
    if path.partition("?")[0].endswith("/"):
        raise ValueError(f"{path!r} is a collection; there are methods of their own for all of its entities")


def decoded(pieces: Iterator[bytes]) -> Iterator[str]:
    """UTF-8 pieces as text; a character that is cut in two comes with the second piece, one that is none as U+FFFD."""
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
