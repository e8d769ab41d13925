"""The client: one method for each operation of OCCI 1.2.

Every method makes one request unless its docstring mentions others. All raise `errors.ClientError`, and ValueError for invalid
arguments.
"""

from __future__ import annotations

import copy
import dataclasses
import random as random_numbers
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
from .errors import MalformedAnswerError, NotFoundError
from .exchange import Call, HttpExchange, Waiting
from .limits import Retry, Timeout
from .speech import Formats, MediaType

USER_AGENT: Final = f"archelon/{__version__} OCCI/1.2"
_PAGE: Final = 100
_DOWNLOAD: Final = 256 << 20


class Client:
    """A client of one OCCI service. Thread-safe; create it once, since it keeps connections open.

    Args:
        base_url: mount point of the service; all paths are relative to it.
        token: the token, or a callable that returns the present one; see `Credentials`.
        token_field: header field of the token.
        tenant_name: sent as X-Tenant-Name.
        request_id: sent as X-Request-Id; a callable is called for each request.
        headers: additional header fields of every request.
        rendering: media type of requests and responses.
        timeout, retry: see `limits`.
        ca_file, verify: see `connections.Secure`.
        limit: maximum bytes of a response's body.
        connections: maximum number of idle connections.
        locations: returns the location of a kind that the caller knows without the query interface, or None. In JSON the query
            interface is then not read for the paths of entities.
        clock, sleep, random: time and randomness, for tests.
        transport: replaces the connections to the base URL's host.

    Raises:
        ValueError: an argument is invalid. Tokens are not shown.
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
        locations: Callable[[str], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random_numbers.random,
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
        self._conversation = Conversation(exchange, Formats.of(rendering), locations=locations)
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
        locations: Callable[[str], str | None] | None = None,
    ) -> Client:
        """Return a client with changed settings that shares the connections; closing it does not close them."""
        exchange = dataclasses.replace(
            self._exchange,
            credentials=self._exchange.credentials.using(token=token, request_id=request_id, headers=headers),
            timeout=timeout or self._exchange.timeout,
            retry=retry or self._exchange.retry,
        )
        # Another tenant may have other mixins.
        catalogue = self._conversation.catalogue if token is None and not headers else None
        other = copy.copy(self)
        other._conversation = Conversation(
            exchange,
            Formats.of(rendering) if rendering else self._conversation.formats,
            catalogue,
            locations=locations or self._conversation.locations,
        )
        other._owns_connections = False
        return other

    @property
    def _exchange(self) -> HttpExchange:
        return self._conversation.exchange

    @property
    def _address(self) -> Address:
        return self._conversation.address

    def __repr__(self) -> str:
        return f"<Client of {self._address.url('/')} in {self._conversation.formats.collection.mime_type}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client remains usable, and opens new ones."""
        if self._owns_connections:
            self._exchange.connections.close()

    # categories -------------------------------------------------------------------------------------------------------

    def categories(self, filter: Iterable[str] = ()) -> Sequence[CategoryDocument]:  # noqa: A002 - the protocol's word
        """Return the kinds, mixins and actions of the service.

        Text renderings lack types, defaults and patterns of attributes; with text/uri-list the request uses text/plain.

        Args:
            filter: type identifiers; limits the result to those and the ones related to them.
        """
        return self._conversation.categories(tuple(filter))

    def define_mixin(
        self, type_id: str, location: str, *, title: str = "", depends: Iterable[str] = (), applies: Iterable[str] = ()
    ) -> None:
        """Add a mixin of the tenant.

        Args:
            location: path of its collection, with a trailing slash.
            depends, applies: type identifiers. Text supports one of `depends`; otherwise the request uses JSON.
        """
        where = self._address.target(self._conversation.collection(location))
        scheme, term = split(type_id)
        document = CategoryDocument(
            scheme, term, "mixin", title, related=[*depends], applies=[*applies], location=where
        )
        conversation = self._conversation
        if len(document.related) > 1 or document.applies:
            conversation = conversation.with_formats(Formats.of("application/occi+json"))
        conversation.send("POST", QUERY, lambda rendering: rendering.write_categories([document]))
        conversation.catalogue.forget()

    def remove_mixin(self, type_id: str) -> None:
        """Remove a mixin of the tenant, and detach it from its members."""
        document = CategoryDocument(*split(type_id), "mixin")
        self._conversation.send("DELETE", QUERY, lambda rendering: rendering.write_categories([document]))
        self._conversation.catalogue.forget()

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
        """Create a resource or a link, and return its path. The service chooses it; with `put` the caller does.

        Args:
            what: type identifier of the kind, or the whole entity as a document.
            at: collection to POST to; by default the kind's location.
            retry: retry failures, which may create two entities.

        Raises:
            UnknownCategoryError: the query interface does not contain the kind, and `at` is not given.
        """
        document = self._document(what, attributes, title, mixins)
        collection = self._conversation.collection(at if at is not None else document.kind or "")
        answer = self._conversation.send(
            "POST", collection, lambda rendering: rendering.write_entity(document), retry=retry
        )
        return self._conversation.created_at(answer, "POST", collection)

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
        """Create a link between a resource of the service and a path or URI, and return the link's path."""
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
        read: bool = True,
    ) -> tuple[Entity, bool]:
        """Create an entity at this path, or replace an existing one (links stay).

        A created entity is read with a separate GET, since the protocol's response does not contain it. If the first response was
        lost and the request retried, the second response counts.

        Args:
            read: whether to read a created entity. Otherwise the result has what was given, without what the service adds.

        Returns:
            The entity, and whether it was created.
        """
        path = self._address.path(path)
        document = self._document(what, attributes, title, mixins)
        answer = self._conversation.send(
            "PUT", path, lambda rendering: rendering.write_entity(document), if_match=if_match
        )
        if answer.status != 201:
            return self._conversation.shown(answer, path, "PUT"), False
        return self._conversation.present(path) if read else _given(document, path), True

    @overload
    def get(self, path: str) -> Entity: ...

    @overload
    def get(self, path: str, *, etag: str) -> Entity | None: ...

    def get(self, path: str, *, etag: str | None = None) -> Entity | None:
        """Return an entity.

        Args:
            etag: of the caller's copy; the result is None if the entity is unchanged.
        """
        return self._conversation.get(self._address.path(path), etag)

    def exists(self, path: str) -> bool:
        """Return whether an entity or collection visible to the caller exists at the path."""
        try:
            self._exchange.call(Call("HEAD", self._address.path(path), self._conversation.headers()))
        except NotFoundError:
            return False
        return True

    def path(self, uri: str) -> str:
        """Return the path of a URI below the base URL, without a request. Raises ValueError."""
        return self._address.path(uri)

    def methods(self, path: str) -> frozenset[str]:
        """Return the HTTP methods of a path."""
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
        """Update an entity partially, and return the result.

        Args:
            mixins: to attach.
            if_match: etag; raises PreconditionFailedError if the entity has changed since.
            retry: retry failures; only if repeating the request is harmless.
        """
        path = self._address.path(path)
        document = EntityDocument(attributes=dict(attributes or {}), title=title, summary=summary, mixins=[*mixins])
        answer = self._conversation.send(
            "POST", path, lambda rendering: rendering.write_entity(document), if_match=if_match, retry=retry
        )
        return self._conversation.shown(answer, path, "POST")

    def dry_run(
        self,
        path: str,
        what: str | EntityDocument = EntityDocument(),  # noqa: B008 - never changed
        attributes: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
    ) -> Entity:
        """Return the entity that a `create` or `update` with these arguments would leave; nothing is changed.

        Raises what the request itself would raise. Not every service has dry runs; others refuse the request.

        Args:
            path: collection to create it in, or entity to update. The location of a created entity is that of its collection.
            what: type identifier of the kind to create; for an update, leave it out.
        """
        path = f"{self._address.path(path)}?dry-run=true"
        document = self._document(what, attributes, title, ())
        answer = self._conversation.send("POST", path, lambda rendering: rendering.write_entity(document))
        if answer.status != 200:
            raise MalformedAnswerError(
                "the service has carried out the request instead of a dry run",
                method="POST",
                url=self._address.url(path),
            )
        return self._conversation.entity(answer, path, "POST")

    def act(
        self, path: str, action: str, attributes: Mapping[str, Any] | None = None, *, retry: bool = False
    ) -> Entity:
        """Invoke an action on an entity, and return the resulting entity.

        Args:
            action: type identifier.
            retry: retry failures; only if repeating the request is harmless.
        """
        path = self._address.path(path)
        check_entity(path)
        return self._conversation.shown(self._act(path, action, attributes, retry=retry), path, "POST")

    def invoke(self, path: str, action: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Invoke an action on an entity without reading the result, which may require the query interface."""
        path = self._address.path(path)
        check_entity(path)
        self._act(path, action, attributes, retry=False)

    def delete(self, path: str, *, if_match: str | None = None, force: bool = False) -> None:
        """Delete an entity.

        Args:
            force: with the query `?force=true`, even if the service would refuse because others use the entity.
        """
        path = self._address.path(path)
        check_entity(path)
        query = "?force=true" if force else ""
        self._exchange.call(Call("DELETE", path + query, self._conversation.headers(if_match)))

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
        """Iterate over the entities of a collection; each page is requested when it is reached.

        In JSON a page is one request. The other renderings list only locations: each entity is another request, and entities
        deleted in the meantime are skipped.

        Args:
            collection: path, or type identifier of a kind or mixin.
            categories, attributes: filters. A core kind selects all that derive from it, and `ANY` any value.
            page: only this page, counted from 1.
            number: entities per page.
        """
        wanted = Filter(tuple(categories), dict(attributes or {}), page, number)
        for found in self._conversation.pages(collection, wanted):
            yield from self._conversation.entities(found)
            for location in self._conversation.paths(found, whole=False):
                try:
                    entity = self._conversation.present(location)
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
        """Iterate over the paths of a collection's entities; see `list`."""
        wanted = Filter(tuple(categories), dict(attributes or {}), page, number)
        for found in self._conversation.pages(collection, wanted):
            yield from self._conversation.paths(found)

    def act_on_all(self, collection: str, action: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Invoke an action on every member of a kind's or mixin's collection."""
        self._act(self._conversation.collection(collection), action, attributes)

    def delete_all(self, collection: str) -> None:
        """Delete every entity of a kind."""
        self._exchange.call(Call("DELETE", self._conversation.collection(collection), self._conversation.headers()))

    def attach(self, mixin: str, locations: Iterable[str]) -> None:
        """Attach a mixin, given by type identifier or path of its collection, to entities. Never retried, as a POST."""
        self._members("POST", mixin, locations)

    def detach(self, mixin: str, locations: Iterable[str] | None = None) -> None:
        """Detach a mixin from entities; without `locations`, from all members."""
        if locations is None:
            self._exchange.call(Call("DELETE", self._conversation.collection(mixin), self._conversation.headers()))
        else:
            self._members("DELETE", mixin, locations)

    def replace_members(self, mixin: str, locations: Iterable[str]) -> None:
        """Set the members of a mixin to exactly these entities."""
        given = [*locations]
        if given:
            self._members("PUT", mixin, given)
        else:
            # The protocol's PUT cannot express an empty set.
            self.detach(mixin)

    # bytes ------------------------------------------------------------------------------------------------------------

    def follow(self, path: str, *, idle: float = 60.0, total: float | None = None) -> Iterator[str]:
        """Stream text, such as the log of an application: pieces of any length, until it ends.

        The request is sent once, with the first iteration. Closing the iterator closes the connection.

        Args:
            path: with its query, such as `…/logs?since=12`.
            idle: seconds without a byte before TimedOutError.
            total: seconds for the whole stream.
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
        """Upload other content, such as a bundle; return whether it was created. Iterables are sent only once."""
        return self.upload(path, content, content_type, if_match=if_match).status == 201

    def upload(
        self, path: str, content: bytes | Iterable[bytes], content_type: str, *, if_match: str | None = None
    ) -> Answer:
        """Upload other content like `put_bytes`, and return the response."""
        headers = {**self._conversation.headers(if_match), "Content-Type": content_type}
        return self._exchange.call(Call("PUT", self._address.path(path), headers, content))

    def get_bytes(self, path: str, *, accept: str = "*/*", limit: int = _DOWNLOAD) -> bytes:
        """Download other content, at most `limit` bytes."""
        return self.download(path, accept=accept, limit=limit).body

    def download(self, path: str, *, accept: str = "*/*", limit: int = _DOWNLOAD) -> Answer:
        """Download other content together with the response's header fields."""
        return self._exchange.call(Call("GET", self._address.path(path), {"Accept": accept}, limit=limit))

    # helpers ----------------------------------------------------------------------------------------------------------

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
        return self._conversation.outgoing(document)

    def _act(self, path: str, action: str, attributes: Mapping[str, Any] | None, *, retry: bool = False) -> Answer:
        document = ActionDocument(action, dict(attributes or {}))
        term = split(action)[1]
        return self._conversation.send(
            "POST", f"{path}?action={term}", lambda rendering: rendering.write_action(document), retry=retry
        )

    def _members(self, method: str, mixin: str, locations: Iterable[str]) -> None:
        members = self._conversation.members(locations)
        path = self._conversation.collection(mixin)
        self._conversation.send(method, path, lambda rendering: rendering.write_collection(members), listing=True)


def _given(document: EntityDocument, path: str) -> Entity:
    """Return an entity as the caller described it."""
    return Entity(
        location=path,
        kind=document.kind or "",
        mixins=tuple(document.mixins),
        attributes=document.attributes,
        title=document.title,
        summary=document.summary,
    )
