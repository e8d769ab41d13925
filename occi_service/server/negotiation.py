"""Content negotiation: the renderings of a request and its response (RFC 9110, 12; defaults of GFD.223)."""

from __future__ import annotations

import functools
from typing import Final

import falcon
import falcon.util.mediatypes

from archelon_core.errors import BadRequestError, NotAcceptableError, UnsupportedMediaTypeError, shown

DEFAULT_MEDIA_TYPE: Final = "text/plain"
#: Characters of an Accept or Content-Type field. A browser sends under 300.
_MAX_FIELD: Final = 1024
_LATIN_1: Final = frozenset(("iso-8859-1", "iso8859-1", "iso_8859-1", "latin-1", "latin1"))
_CHARSETS: Final = frozenset(("utf-8", "utf8", "us-ascii", "ascii")) | _LATIN_1


@functools.lru_cache(maxsize=1024)
def accepted(accept: str | None, offered: tuple[str, ...], default: str = DEFAULT_MEDIA_TYPE) -> str:
    """Return the media type of the response. Among equals the order of `offered` decides.

    Raises:
        BadRequestError: the Accept field does not parse.
        NotAcceptableError: nothing offered is accepted.
    """
    if accept is None or not accept.strip() or accept == "*/*":
        return default
    if len(accept) > _MAX_FIELD:
        raise BadRequestError(f"the field has more than {_MAX_FIELD} characters", "header Accept")
    try:
        best = falcon.util.mediatypes.best_match(offered, accept.lower())
    except falcon.InvalidMediaType as error:
        raise BadRequestError(f"{shown(accept)} does not parse: {error}", "header Accept") from None
    if not best:
        raise NotAcceptableError(f"{shown(accept)} names none of {', '.join(offered)}", "header Accept")
    return best


@functools.lru_cache(maxsize=1024)
def content_type(field: str | None, readable: tuple[str, ...], *, has_body: bool) -> str:
    """Return the media type of the request. Default: text/occi without a body, text/plain with one.

    Raises:
        UnsupportedMediaTypeError: no rendering reads it, or its charset is neither UTF-8 nor ISO-8859-1.
    """
    if not field or not field.strip():
        return DEFAULT_MEDIA_TYPE if has_body else "text/occi"
    if len(field) > _MAX_FIELD:
        raise UnsupportedMediaTypeError(f"the field has more than {_MAX_FIELD} characters", "header Content-Type")
    media_type, _, parameters = field.partition(";")
    media_type = media_type.strip().lower()
    if media_type not in readable:
        raise UnsupportedMediaTypeError(f"{shown(field)} is none of {', '.join(readable)}", "header Content-Type")
    if not _CHARSETS.issuperset(_charsets(parameters)):
        raise UnsupportedMediaTypeError(f"{shown(field)}: the charset must be utf-8", "header Content-Type")
    return media_type


@functools.lru_cache(maxsize=1024)
def is_latin_1(field: str | None) -> bool:
    """Return whether a Content-Type declares ISO-8859-1, which Java's HTTP clients add by themselves to text."""
    return field is not None and len(field) <= _MAX_FIELD and not _LATIN_1.isdisjoint(_charsets(field))


def _charsets(parameters: str) -> list[str]:
    """Return the values of all `charset` parameters."""
    found = [each.partition("=") for each in parameters.split(";")]
    return [value.strip().strip('"').lower() for name, _, value in found if name.strip().lower() == "charset"]
