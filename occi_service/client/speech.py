"""Which rendering a client writes and asks for, and how it reads whichever came.

A client speaks one rendering. `text/uri-list` holds locations and nothing else, so its client writes and asks for
entities, actions and categories in text/plain. An answer is read by its own Content-Type: a server may have had its
reasons.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

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
_SPOKEN: Final = ("application/occi+json", "text/plain", "text/occi", "text/uri-list")


@dataclasses.dataclass(frozen=True, slots=True)
class Speech:
    """A client's rendering.

    Attributes:
        listing: for collections.
        whole: for entities, actions and categories.
    """

    listing: Rendering
    whole: Rendering

    @classmethod
    def of(cls, media_type: MediaType) -> Speech:
        """The speech of a media type. Raises ValueError for one that OCCI does not have."""
        if media_type not in _SPOKEN:
            raise ValueError(f"{media_type!r} is not a rendering of OCCI; {', '.join(_SPOKEN)} are")
        listing = _KNOWN[media_type]
        return cls(listing, _KNOWN["text/plain"] if media_type == "text/uri-list" else listing)

    def read(self, answer: Answer, asked: Rendering, read: Callable[[Rendering, Message], T]) -> tuple[T, Rendering]:
        """A document out of an answer, and the rendering that it came in.

        Raises:
            MalformedDocumentError: it does not follow its rendering, or the rendering is none that is known.
        """
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        rendering = _KNOWN.get(media_type) if media_type else asked
        if rendering is None:
            raise MalformedDocumentError(
                f"the answer is in {media_type[:80]!r}, and not in OCCI", "header Content-Type"
            )
        headers = {lower: from_header(answer.headers[lower]) for lower in FIELDS if lower in answer.headers}
        return read(rendering, Message(headers, answer.body)), rendering


def says_nothing(answer: Answer) -> bool:
    """Whether an answer says that it is done and shows nothing."""
    if answer.status == 204:
        return True
    body: Any = answer.body.strip()
    return body in (b"", b"OK", b"{}", b"# OK") and not any(name in answer.headers for name in FIELDS)
