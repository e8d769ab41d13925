"""Converts error responses and network failures to the errors of the client.

The body may be OCCI's JSON error, the line of the text renderings, a proxy's page, or empty. The credentials of the request are
removed from it first, then control characters and excess length.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Final

import urllib3.exceptions

from ..renderings.base import ErrorDocument
from .connections import Answer
from .errors import RedirectError, StatusError, of_status

#: Bytes of an error's body that are parsed, and characters that are shown.
_BYTES: Final = 64 << 10
_CHARACTERS: Final = 2000
_LINE: Final = re.compile(r"[1-5][0-9]{2} ([^:\n]{1,80}): (.*)", re.DOTALL)
_PLACE: Final = re.compile(r"(.*) \(([^()\n]{1,200})\)", re.DOTALL)
_COMMENT: Final = re.compile(r"^# ", re.MULTILINE)
_HTML_TITLE: Final = re.compile(r"<title>([^<]{0,200})</title>", re.IGNORECASE)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def refusal(answer: Answer, *, method: str, url: str, attempts: int = 1) -> StatusError:
    """Return the error of an unsuccessful response."""
    document = error_document(answer)

    def shown(text: str) -> str:
        return _UNPRINTABLE.sub(" ", without(answer.secrets, text)[:_CHARACTERS])

    made = of_status(answer.status)
    message = shown(document.message)
    location = shown(answer.headers.get("location", "").partition("?")[0])
    if issubclass(made, RedirectError):
        message = (
            f"the server redirects to {location or 'an unknown location'}; redirects are not followed, set the base URL"
        )
    error = made(
        message,
        method=method,
        url=url,
        status=answer.status,
        title=shown(document.title),
        where=shown(document.where),
        retry_after=retry_after(answer.headers),
        attempts=attempts,
    )
    if isinstance(error, RedirectError):
        error.location = location
    return error


def without(secrets: frozenset[str], text: str) -> str:
    """Return the text with every secret replaced, also in percent-encoded form."""
    for secret in secrets:
        text = text.replace(secret, "[secret]").replace(urllib.parse.quote(secret, safe=""), "[secret]")
    return text


def repeats_secret(answer: Answer) -> bool:
    """Return whether a response contains a secret of its request, in its body or in a header field."""
    texts = [answer.body.decode("utf-8", "replace"), *answer.headers.values()]
    return any(without(answer.secrets, text) != text for text in texts)


def error_document(answer: Answer) -> ErrorDocument:
    """Parse the error of a response in any known form."""
    status = answer.status
    title = http.client.responses.get(status, "")
    text = answer.body[:_BYTES].decode("utf-8", "replace").strip()
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.endswith("json"):
        return _json_error(text, status, title)
    if media_type == "text/html":
        found = _HTML_TITLE.search(text)
        return ErrorDocument(status, title, found.group(1).strip() if found else "the response is an HTML page")
    if media_type == "text/uri-list":
        text = _COMMENT.sub("", text.replace("\r\n", "\n"))
    line = _LINE.fullmatch(text)
    if line is None:
        return ErrorDocument(status, title, text or "the server gave no reason")
    place = _PLACE.fullmatch(line.group(2))
    if place is None:
        return ErrorDocument(status, line.group(1), line.group(2))
    return ErrorDocument(status, line.group(1), place.group(1), place.group(2))


def _json_error(text: str, status: int, title: str) -> ErrorDocument:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ErrorDocument(status, title, text or "the server gave no reason")
    error = value.get("error", value) if isinstance(value, dict) else None
    if isinstance(error, str):
        return ErrorDocument(status, title, error)
    if not isinstance(error, dict):
        return ErrorDocument(status, title, text)
    message = error.get("message") or error.get("description") or text
    return ErrorDocument(status, str(error.get("title") or title), str(message), str(error.get("where") or ""))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of the server's Retry-After, or None (RFC 9110, 10.2.3).

    A date is compared with the response's own Date, since the clocks may differ; without one it is ignored.
    """
    field = headers.get("retry-after", "").strip()
    if field.isascii() and field.isdigit():
        return float(field[:9])
    try:
        then = email.utils.parsedate_to_datetime(field)
        now = email.utils.parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return None


def is_refused(error: BaseException) -> bool:
    """Return whether a connection failed for another reason than a timeout; urllib3's class derives from its timeouts."""
    return isinstance(error, urllib3.exceptions.NewConnectionError)


def traceback_cause(error: BaseException) -> BaseException | None:
    """Return the cause to show in a traceback: the system's error, but nothing that repeats the server's text."""
    return error if isinstance(error, OSError) else None


def describe(error: BaseException) -> str:
    """Describe a network failure without objects' addresses and without the server's text."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "the host's name cannot be resolved"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError) and not is_refused(error):
        return "the connection timed out"
    if isinstance(error, TimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "the response timed out"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed before the response"
    if isinstance(error, http.client.IncompleteRead | urllib3.exceptions.IncompleteRead):
        return "the connection was closed within the response"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, http.client.HTTPException):
        return "the response is not HTTP"
    cause = error.__cause__ or error.__context__
    return describe(cause) if cause is not None else type(error).__name__
