"""What a rendering is: documents in, header fields and bytes out, and back.

A rendering is also pyssf's `Rendering`, so that a registry written for pyssf keeps it; pyssf's own methods, which mix
syntax with lookups in the registry, stay unimplemented here. Renderings that do implement those (someone's own, or
pyssf's) are served through `occi_service.server.pyssf_renderings`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import occi.protocol.rendering

from .documents import ActionDocument, CategoryDocument, Collection, EntityDocument, MalformedDocumentError


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """What a rendering reads: the body, and the header fields, names in lower case, values decoded."""

    headers: Mapping[str, str]
    body: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    """What a rendering wrote: header fields beside `Content-Type`, and the body."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorDocument:
    """An error for a person. `status` is a whole number, `where` the field or place, `message` what would be right."""

    status: int
    title: str
    message: str
    where: str = ""


def decode(body: bytes) -> str:
    """The body as text.

    Raises:
        MalformedDocumentError: it is not UTF-8.
    """
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedDocumentError("the body is not UTF-8", f"byte {error.start + 1}") from None


class Rendering(occi.protocol.rendering.Rendering):
    """Base of all renderings. Every `read_…` raises MalformedDocumentError; a rendering that cannot show or hold
    something raises UnsupportedDocumentError, as the base does for everything.

    Attributes:
        mime_type: the media type it is registered under.
        content_type: the same with its parameters, as sent.
        shows_entities: whether collections show whole entities (else locations).
        holds_entities: whether it has a form for a single entity.
        headers_only: whether the document travels in header fields, so that its size is limited.
    """

    mime_type = ""
    content_type = ""
    shows_entities = False
    holds_entities = True
    headers_only = False

    def __init__(self, registry: Any = None) -> None:
        super().__init__(registry)

    def mounted_at(self, prefix: str) -> Rendering:
        """The rendering for a service under this path; only one that makes links of its own needs to know."""
        return self

    def read_entity(self, message: Message) -> EntityDocument:
        """One resource or link, whole or in part."""
        raise UnsupportedDocumentError(self.mime_type, "an entity")

    def read_collection(self, message: Message) -> Collection:
        """Several entities: whole ones, or those already there by location."""
        raise UnsupportedDocumentError(self.mime_type, "a collection")

    def read_action(self, message: Message) -> ActionDocument:
        """The invocation of an action."""
        raise UnsupportedDocumentError(self.mime_type, "an action")

    def read_categories(self, message: Message) -> list[CategoryDocument]:
        """Categories, as the query interface shows and takes them."""
        raise UnsupportedDocumentError(self.mime_type, "categories")

    def write_entity(self, entity: EntityDocument) -> Payload:
        """One resource or link."""
        raise UnsupportedDocumentError(self.mime_type, "an entity")

    def write_collection(self, collection: Collection) -> Payload:
        """Several entities; see `shows_entities`."""
        raise UnsupportedDocumentError(self.mime_type, "a collection")

    def write_action(self, action: ActionDocument) -> Payload:
        """The invocation of an action."""
        raise UnsupportedDocumentError(self.mime_type, "an action")

    def write_categories(self, categories: list[CategoryDocument]) -> Payload:
        """Categories for the query interface."""
        raise UnsupportedDocumentError(self.mime_type, "categories")

    def write_done(self) -> Payload:
        """The answer to a request that has nothing to show."""
        return Payload(b"OK")

    def write_error(self, error: ErrorDocument) -> Payload:
        """An error, as plain text unless the rendering knows better."""
        place = f" ({error.where})" if error.where else ""
        return Payload(f"{error.status} {error.title}: {error.message}{place}\n".encode())


class UnsupportedDocumentError(ValueError):
    """The rendering has no form for such a document, for example text/uri-list for an entity."""

    def __init__(self, mime_type: str, what: str) -> None:
        super().__init__(f"{mime_type} cannot hold {what}; use text/plain, text/occi or application/occi+json")


def compact_json(value: object) -> bytes:
    """JSON without needless spaces, non-ASCII text as itself."""
    return _ENCODER.encode(value).encode()


# One encoder, made once: json.dumps with these options would make one for every call.
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
