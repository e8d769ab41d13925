"""The rendering of a client's requests, and the reading of responses.

A client uses one rendering. `text/uri-list` supports only locations, so its client uses text/plain for entities, actions and
categories. Responses are read by their own Content-Type, which may differ from the requested one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, get_args

from ..renderings import (
    Json,
    MalformedDocumentError,
    Message,
    PlainJson,
    Rendering,
    TextOcci,
    TextOcciPlain,
    TextPlain,
    UriList,
)
from ..renderings.text import FIELDS, from_header
from .connections import Answer

MediaType = Literal["application/occi+json", "text/plain", "text/occi", "text/uri-list"]
T = TypeVar("T")

_KNOWN: Final[dict[str, Rendering]] = {
    each.mime_type: each for each in (Json(), TextPlain(), TextOcci(), UriList(), TextOcciPlain(), PlainJson())
}
_MEDIA_TYPES: Final = get_args(MediaType)


@dataclasses.dataclass(frozen=True, slots=True)
class Formats:
    """A client's renderings.

    Attributes:
        collection: for collections.
        entity: for entities, actions and categories.
    """

    collection: Rendering
    entity: Rendering

    @classmethod
    def of(cls, media_type: MediaType) -> Formats:
        """Return the renderings of a media type. Raises ValueError for one outside OCCI."""
        if media_type not in _MEDIA_TYPES:
            raise ValueError(f"{media_type!r} is not a rendering of OCCI; expected one of {', '.join(_MEDIA_TYPES)}")
        listing = _KNOWN[media_type]
        return cls(listing, _KNOWN["text/plain"] if media_type == "text/uri-list" else listing)

    def read(
        self, answer: Answer, requested: Rendering, read: Callable[[Rendering, Message], T]
    ) -> tuple[T, Rendering]:
        """Read a document from a response; return it with the rendering of the response.

        Raises:
            MalformedDocumentError: it violates its rendering's grammar, or the media type is unknown.
        """
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        rendering = _KNOWN.get(media_type) if media_type else requested
        if rendering is None:
            raise MalformedDocumentError(
                f"the response has the media type {media_type[:80]!r}, which is not OCCI's", "header Content-Type"
            )
        headers = {lower: from_header(answer.headers[lower]) for lower in FIELDS if lower in answer.headers}
        return read(rendering, Message(headers, answer.body)), rendering


def has_no_content(answer: Answer) -> bool:
    """Return whether a response only confirms success."""
    if answer.status == 204:
        return True
    body: Any = answer.body.strip()
    return body in (b"", b"OK", b"{}", b"# OK") and not any(name in answer.headers for name in FIELDS)
