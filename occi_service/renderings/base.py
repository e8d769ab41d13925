"""Base class of renderings: documents to header fields and bytes, and back.

A rendering is also a pyssf `Rendering`, so that a registry written for pyssf can store it; pyssf's own methods, which mix syntax
with lookups in the registry, are not implemented. Renderings that implement those instead (third-party, or pyssf's) are served
through `occi_service.server.pyssf_renderings`.
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
    """Input of a rendering: the body, and the header fields, names in lower case, values decoded."""

    headers: Mapping[str, str]
    body: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    """Output of a rendering: the body, and header fields besides `Content-Type`."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorDocument:
    """An error for people. `status` is an integer, `where` the field or place, `message` the error and the expected input."""

    status: int
    title: str
    message: str
    where: str = ""


def decode(body: bytes) -> str:
    """Decode the body. Raises MalformedDocumentError if it is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedDocumentError("the body is not UTF-8", f"byte {error.start + 1}") from None


class Rendering(occi.protocol.rendering.Rendering):
    """Base of all renderings. Every `read_…` raises MalformedDocumentError; documents that a rendering does not support raise
    UnsupportedDocumentError, which is the default.

    Attributes:
        mime_type: registered media type.
        content_type: the media type with parameters, as sent.
        shows_entities: whether collections contain whole entities (else locations).
        holds_entities: whether single entities are supported.
        headers_only: whether the document is sent in header fields, which limits its size.
    """

    mime_type = ""
    content_type = ""
    shows_entities = False
    holds_entities = True
    headers_only = False

    def __init__(self, registry: Any = None) -> None:
        super().__init__(registry)

    def mounted_at(self, prefix: str) -> Rendering:
        """Return the rendering for a service mounted at this path; only renderings that generate links depend on it."""
        return self

    def translated(self, entity: EntityDocument) -> EntityDocument:
        """Return the document as this rendering shows it; only renderings for clients with other values differ."""
        return entity

    def read_entity(self, message: Message) -> EntityDocument:
        """Read one resource or link, whole or in part."""
        raise UnsupportedDocumentError(self.mime_type, "an entity")

    def read_collection(self, message: Message) -> Collection:
        """Read several entities, whole or by location."""
        raise UnsupportedDocumentError(self.mime_type, "a collection")

    def read_action(self, message: Message) -> ActionDocument:
        """Read the invocation of an action."""
        raise UnsupportedDocumentError(self.mime_type, "an action")

    def read_categories(self, message: Message) -> list[CategoryDocument]:
        """Read categories, in the form of the query interface."""
        raise UnsupportedDocumentError(self.mime_type, "categories")

    def write_entity(self, entity: EntityDocument) -> Payload:
        """Write one resource or link."""
        raise UnsupportedDocumentError(self.mime_type, "an entity")

    def write_collection(self, collection: Collection) -> Payload:
        """Write several entities; see `shows_entities`."""
        raise UnsupportedDocumentError(self.mime_type, "a collection")

    def write_action(self, action: ActionDocument) -> Payload:
        """Write the invocation of an action."""
        raise UnsupportedDocumentError(self.mime_type, "an action")

    def write_categories(self, categories: list[CategoryDocument]) -> Payload:
        """Write categories for the query interface."""
        raise UnsupportedDocumentError(self.mime_type, "categories")

    def write_done(self) -> Payload:
        """Write a response without content."""
        return Payload(b"OK")

    def write_error(self, error: ErrorDocument) -> Payload:
        """Write an error, by default as plain text."""
        place = f" ({error.where})" if error.where else ""
        return Payload(f"{error.status} {error.title}: {error.message}{place}\n".encode())


class UnsupportedDocumentError(ValueError):
    """The rendering does not support such a document, for example text/uri-list an entity."""

    def __init__(self, mime_type: str, what: str) -> None:
        super().__init__(f"{mime_type} cannot hold {what}; use text/plain, text/occi or application/occi+json")


def compact_json(value: object) -> bytes:
    """Encode JSON without spaces, and without escapes of non-ASCII text."""
    return _ENCODER.encode(value).encode()


# One shared encoder: json.dumps with these options would create one for every call.
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
