"""The client: one method for each thing that OCCI 1.2 can do, over what the other modules of this package know.

Every method makes one request, or says in its docstring which others; all raise `errors.ClientError`, and ValueError for
what could not even be sent.
"""

from __future__ import annotations

import copy
import dataclasses
import random as chance
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, overload

from archelon_core.version import __version__

from ..renderings import ActionDocument, CategoryDocument, EntityDocument, Reference
from .address import Address
from .connections import Answer, Connections, Secure
from .conversation import QUERY, Conversation, Filter, check_entity, decoded, split
from .credentials import Credentials, RequestId, Token, TokenField
from .entities import Entity
from .errors import NotFoundError
from .exchange import Call, HttpExchange, Waiting
from .limits import Retry, Timeout
from .speech import MediaType, Speech

USER_AGENT: Final = f"archelon/{__version__} OCCI/1.2"
_PAGE: Final = 100
_DOWNLOAD: Final = 256 << 20


class Client:
    """A client of one OCCI service. Thread-safe; make one and keep it, since it keeps connections.

    Args:
        base_url: where the service is mounted; all paths are relative to it.
        token: the token, or a callable that gives the present one; see `Credentials`.
        token_field: the header field that carries it.
        tenant_name: sent as X-Tenant-Name.
        request_id: sent as X-Request-Id; a callable is asked for each request.
        headers: further header fields of every request.
        rendering: media type that is spoken.
        timeout, retry: see `limits`.
        ca_file, verify: see `connections.Secure`.
        limit: bytes of an answer's body.
        connections: idle connections to keep.
        clock, sleep, random: time and chance, for tests.
        transport: what carries requests, in the place of connections to the base URL's host.

    Raises:
        ValueError: one of them cannot be. Tokens are not shown.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: Token = None,
        token_field: TokenField = "Authorization",  # noqa: S107 - the field's name
        tenant_name: str | None = None,
        request_id: RequestId = None,
        headers: Mapping[str, str] | None = None,
        rendering: MediaType = "application/occi+json",
        timeout: Timeout = Timeout(),  # noqa: B008 - frozen
        retry: Retry = Retry(),  # noqa: B008 - frozen
        ca_file: str | None = None,
        verify: bool = True,
        limit: int = 16 << 20,
        connections: int = 8,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = chance.random,
        transport: Connections | None = None,
    ) -> None:
        address = Address(base_url)
        exchange = HttpExchange(
            address=address,
            connections=transport
            or Connections(
                address.scheme, address.host, address.port, secure=Secure(ca_file, verify), keep=connections
            ),
            credentials=Credentials(
                token,
                field=token_field,
                tenant_name=tenant_name,
                request_id=request_id,
                headers={"User-Agent": USER_AGENT, **(headers or {})},
            ),
            timeout=timeout,
            retry=retry,
            waiting=Waiting(clock, sleep, random),
            limit=limit,
        )
        self._talk = Conversation(exchange, Speech.of(rendering))
        self._owns_connections = True

    def using(
        self,
        *,
        token: Token = None,
        request_id: RequestId = None,
        headers: Mapping[str, str] | None = None,
        rendering: MediaType | None = None,
        timeout: Timeout | None = None,
        retry: Retry | None = None,
    ) -> Client:
        """The same client with some things different, over the same connections; closing it closes none."""
        exchange = dataclasses.replace(
            self._exchange,
            credentials=self._exchange.credentials.using(token=token, request_id=request_id, headers=headers),
            timeout=timeout or self._exchange.timeout,
            retry=retry or self._exchange.retry,
        )
        # Another tenant has other mixins.
        catalogue = self._talk.catalogue if token is None and not headers else None
        other = copy.copy(self)
        other._talk = Conversation(exchange, Speech.of(rendering) if rendering else self._talk.speech, catalogue)
        other._owns_connections = False
        return other

    @property
    def _exchange(self) -> HttpExchange:
        return self._talk.exchange

    @property
    def _address(self) -> Address:
        return self._talk.address

    def __repr__(self) -> str:
        return f"<Client of {self._address.url('/')} in {self._talk.speech.listing.mime_type}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client can still be used, and opens new ones."""
        if self._owns_connections:
            self._exchange.connections.close()

    # categories -------------------------------------------------------------------------------------------------------

    def categories(self, filter: Iterable[str] = ()) -> Sequence[CategoryDocument]:  # noqa: A002 - the protocol's word
        """The kinds, mixins and actions that the service offers.

        Text renderings have no room for types, defaults and patterns of attributes; text/uri-list asks in text/plain.

        Args:
            filter: type identifiers; those and the ones related to them are shown.
        """
        return self._talk.categories(tuple(filter))

    def define_mixin(
        self, type_id: str, location: str, *, title: str = "", depends: Iterable[str] = (), applies: Iterable[str] = ()
    ) -> None:
        """Add a mixin of the tenant's own.

        Args:
            location: path of its collection, with a slash at the end.
            depends, applies: type identifiers. Text has room for one of `depends`; what is more goes out in JSON.
        """
        where = self._address.target(self._talk.collection(location))
        scheme, term = split(type_id)
        document = CategoryDocument(
            scheme, term, "mixin", title, related=[*depends], applies=[*applies], location=where
        )
        talk = self._talk
        if len(document.related) > 1 or document.applies:
            talk = talk.with_speech(Speech.of("application/occi+json"))
        talk.send("POST", QUERY, lambda rendering: rendering.write_categories([document]))
        talk.catalogue.forget()

    def remove_mixin(self, type_id: str) -> None:
        """Remove a mixin of the tenant's own, from its members too."""
        document = CategoryDocument(*split(type_id), "mixin")
        self._talk.send("DELETE", QUERY, lambda rendering: rendering.write_categories([document]))
        self._talk.catalogue.forget()

    # entities ---------------------------------------------------------------------------------------------------------

    def create(
        self,
        what: str | EntityDocument,
        attributes: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
        mixins: Iterable[str] = (),
        at: str | None = None,
        retry: bool = False,
    ) -> str:
        """Create a resource or a link, and return its path. The service chooses it; `put` chooses for itself.

        Args:
            what: type identifier of the kind, or the whole entity as a document (then with all that is in it).
            at: collection to POST to; the kind's own location without.
            retry: send it again if it fails, though that may create two.

        Raises:
            UnknownCategoryError: the service does not show the kind, and `at` is not given.
        """
        document = self._document(what, attributes, title, mixins)
        collection = self._talk.collection(at if at is not None else document.kind or "")
        answer = self._talk.send("POST", collection, lambda rendering: rendering.write_entity(document), retry=retry)
        return self._talk.created_at(answer, "POST", collection)

    def link(
        self,
        kind: str,
        source: str,
        target: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        target_kind: str | None = None,
        title: str | None = None,
    ) -> str:
        """Create a link between a resource here and a path or URI, and return the link's path."""
        document = EntityDocument(
            kind=kind,
            attributes=dict(attributes or {}),
            title=title,
            source=Reference(source),
            target=Reference(target, target_kind),
        )
        return self.create(document)

    def put(
        self,
        path: str,
        what: str | EntityDocument,
        attributes: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
        mixins: Iterable[str] = (),
        if_match: str | None = None,
    ) -> tuple[Entity, bool]:
        """Create an entity at this path, or replace what is there whole (its links stay).

        One that was created is then read with a GET of its own, since the protocol's answer does not show it. Where the
        first answer was lost and the request sent again, the second answer counts.

        Returns:
            The entity, and whether it was created.
        """
        path = self._address.path(path)
        document = self._document(what, attributes, title, mixins)
        answer = self._talk.send("PUT", path, lambda rendering: rendering.write_entity(document), if_match=if_match)
        if answer.status == 201:
            return self._talk.present(path), True
        return self._talk.shown(answer, path, "PUT"), False

    @overload
    def get(self, path: str) -> Entity: ...

    @overload
    def get(self, path: str, *, etag: str) -> Entity | None: ...

    def get(self, path: str, *, etag: str | None = None) -> Entity | None:
        """An entity.

        Args:
            etag: of what the caller has; the answer is None if the entity is still that.
        """
        return self._talk.get(self._address.path(path), etag)

    def exists(self, path: str) -> bool:
        """Whether there is an entity or collection at the path that this caller may see."""
        try:
            self._exchange.call(Call("HEAD", self._address.path(path), self._talk.headers()))
        except NotFoundError:
            return False
        return True

    def methods(self, path: str) -> frozenset[str]:
        """The HTTP methods that the path takes."""
        answer = self._exchange.call(Call("OPTIONS", self._address.path(path)))
        return frozenset(each.strip() for each in answer.headers.get("allow", "").split(",") if each.strip())

    def update(
        self,
        path: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
        summary: str | None = None,
        mixins: Iterable[str] = (),
        if_match: str | None = None,
        retry: bool = False,
    ) -> Entity:
        """Change an entity in part, and return what it became.

        Args:
            mixins: to attach.
            if_match: etag; the change is refused with PreconditionFailedError if the entity is no longer that.
            retry: send it again if it fails, where doing it twice is harmless.
        """
        path = self._address.path(path)
        document = EntityDocument(attributes=dict(attributes or {}), title=title, summary=summary, mixins=[*mixins])
        answer = self._talk.send(
            "POST", path, lambda rendering: rendering.write_entity(document), if_match=if_match, retry=retry
        )
        return self._talk.shown(answer, path, "POST")

    def act(
        self, path: str, action: str, attributes: Mapping[str, Any] | None = None, *, retry: bool = False
    ) -> Entity:
        """Invoke an action on an entity, and return what it became.

        Args:
            action: type identifier.
            retry: send it again if it fails, where doing it twice is harmless.
        """
        path = self._address.path(path)
        check_entity(path)
        return self._talk.shown(self._act(path, action, attributes, retry=retry), path, "POST")

    def invoke(self, path: str, action: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Invoke an action on an entity, and leave unread what it became: that may take a look at the query interface."""
        path = self._address.path(path)
        check_entity(path)
        self._act(path, action, attributes, retry=False)

    def delete(self, path: str, *, if_match: str | None = None) -> None:
        """Delete an entity."""
        path = self._address.path(path)
        check_entity(path)
        self._exchange.call(Call("DELETE", path, self._talk.headers(if_match)))

    # collections ------------------------------------------------------------------------------------------------------

    def list(
        self,
        collection: str = "/",
        *,
        categories: Iterable[str] = (),
        attributes: Mapping[str, Any] | None = None,
        page: int | None = None,
        number: int = _PAGE,
    ) -> Iterator[Entity]:
        """The entities of a collection, a page at a time, each page asked for when it is reached.

        In JSON a page is one request. The other renderings list locations only: there each entity is one more, and one
        that is gone by then is passed over.

        Args:
            collection: path, or type identifier of a kind or mixin.
            categories, attributes: what every entity has to have.
            page: this page only, counted from 1.
            number: entities a page.
        """
        wanted = Filter(tuple(categories), dict(attributes or {}), page, number)
        for found in self._talk.pages(collection, wanted):
            yield from self._talk.entities(found)
            for location in self._talk.paths(found, whole=False):
                try:
                    entity = self._talk.present(location)
                except NotFoundError:
                    continue
                yield entity

    def locations(
        self,
        collection: str = "/",
        *,
        categories: Iterable[str] = (),
        attributes: Mapping[str, Any] | None = None,
        page: int | None = None,
        number: int = _PAGE,
    ) -> Iterator[str]:
        """The paths of a collection's entities; see `list`."""
        wanted = Filter(tuple(categories), dict(attributes or {}), page, number)
        for found in self._talk.pages(collection, wanted):
            yield from self._talk.paths(found)

    def act_on_all(self, collection: str, action: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Invoke an action on every member of a kind's or mixin's collection."""
        self._act(self._talk.collection(collection), action, attributes)

    def delete_all(self, collection: str) -> None:
        """Delete every entity of a kind."""
        self._exchange.call(Call("DELETE", self._talk.collection(collection), self._talk.headers()))

    def attach(self, mixin: str, locations: Iterable[str]) -> None:
        """Attach a mixin, given by type identifier or path of its collection, to entities. Sent once: it is a POST."""
        self._members("POST", mixin, locations)

    def detach(self, mixin: str, locations: Iterable[str] | None = None) -> None:
        """Detach a mixin from entities; without `locations`, from all that have it."""
        if locations is None:
            self._exchange.call(Call("DELETE", self._talk.collection(mixin), self._talk.headers()))
        else:
            self._members("DELETE", mixin, locations)

    def replace_members(self, mixin: str, locations: Iterable[str]) -> None:
        """Make exactly these entities the members of a mixin."""
        given = [*locations]
        if given:
            self._members("PUT", mixin, given)
        else:
            # The protocol's PUT has no way to say none.
            self.detach(mixin)

    # bytes ------------------------------------------------------------------------------------------------------------

    def follow(self, path: str, *, idle: float = 60.0, total: float | None = None) -> Iterator[str]:
        """Text as the server writes it, such as the log of an application: pieces of any length, until it ends.

        The request is sent once, with the first piece asked for. Closing the iterator closes the connection.

        Args:
            path: with its query, such as `…/logs?since=12`.
            idle: seconds without a byte after which it is given up with TimedOutError.
            total: seconds for all of it.
        """
        exchange = dataclasses.replace(
            self._exchange, timeout=dataclasses.replace(self._exchange.timeout, read=idle, total=total)
        )
        pieces = exchange.stream(Call("GET", self._address.path(path), {"Accept": "text/plain, */*;q=0.1"}))
        return decoded(pieces)

    def put_bytes(
        self,
        path: str,
        content: bytes | Iterable[bytes],
        content_type: str,
        *,
        if_match: str | None = None,
    ) -> bool:
        """Upload what is not OCCI, such as a bundle; return whether it was created. Pieces are sent once only."""
        headers = {**self._talk.headers(if_match), "Content-Type": content_type}
        return self._exchange.call(Call("PUT", self._address.path(path), headers, content)).status == 201

    def get_bytes(self, path: str, *, accept: str = "*/*", limit: int = _DOWNLOAD) -> bytes:
        """Download what is not OCCI, at most `limit` bytes of it."""
        return self.download(path, accept=accept, limit=limit).body

    def download(self, path: str, *, accept: str = "*/*", limit: int = _DOWNLOAD) -> Answer:
        """The same, with the answer's header fields."""
        return self._exchange.call(Call("GET", self._address.path(path), {"Accept": accept}, limit=limit))

    # the parts of requests --------------------------------------------------------------------------------------------

    def _document(
        self, what: str | EntityDocument, attributes: Mapping[str, Any] | None, title: str | None, mixins: Iterable[str]
    ) -> EntityDocument:
        if isinstance(what, str):
            split(what)
            what = EntityDocument(kind=what)
        document = dataclasses.replace(
            what,
            attributes={**what.attributes, **(attributes or {})},
            title=what.title if title is None else title,
            mixins=[*what.mixins, *mixins],
        )
        return self._talk.outgoing(document)

    def _act(self, path: str, action: str, attributes: Mapping[str, Any] | None, *, retry: bool = False) -> Answer:
        document = ActionDocument(action, dict(attributes or {}))
        term = split(action)[1]
        return self._talk.send(
            "POST", f"{path}?action={term}", lambda rendering: rendering.write_action(document), retry=retry
        )

    def _members(self, method: str, mixin: str, locations: Iterable[str]) -> None:
        members = self._talk.members(locations)
        path = self._talk.collection(mixin)
        self._talk.send(method, path, lambda rendering: rendering.write_collection(members), listing=True)
