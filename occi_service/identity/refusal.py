"""How a refusal becomes a response. The OCCI application supplies a renderer that answers in the rendering asked for; this one
is for everything else, and answers in plain text or JSON."""

from __future__ import annotations

import http
import json
from collections.abc import Iterable, Mapping
from typing import Protocol
from wsgiref.types import StartResponse, WSGIEnvironment

from .errors import RefusedError

__all__ = ["ErrorRenderer", "refuse", "render_plain_error"]


class ErrorRenderer(Protocol):
    """Starts an error response and gives its body."""

    def __call__(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        status: int,
        title: str,
        message: str,
        where: str,
        headers: Mapping[str, str],
    ) -> Iterable[bytes]:
        """`headers` are to be sent beside the renderer's own; `where` may be empty."""


def refuse(
    render_error: ErrorRenderer, environ: WSGIEnvironment, start_response: StartResponse, *, error: RefusedError
) -> Iterable[bytes]:
    """Answer with `error`."""
    return render_error(environ, start_response, error.status, error.title, error.message, error.where, error.headers)


def render_plain_error(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: int,
    title: str,
    message: str,
    where: str,
    headers: Mapping[str, str],
) -> Iterable[bytes]:
    """The default `ErrorRenderer`: `text/plain`, or `application/json` where `Accept` prefers it."""
    if _prefers_json(environ.get("HTTP_ACCEPT", "")):
        document = {"error": {"status": status, "title": title, "message": message, "where": where}}
        body = json.dumps(document, ensure_ascii=False).encode()
        media_type = "application/json"
    else:
        place = f" ({where})" if where else ""
        body = f"{title}: {message}{place}\n".encode()
        media_type = "text/plain; charset=utf-8"
    phrase = http.HTTPStatus(status).phrase
    fields = [
        ("Content-Type", media_type),
        ("Content-Length", str(len(body))),
        # A refusal depends on the token, which no cache sees.
        ("Cache-Control", "no-store"),
        *headers.items(),
    ]
    start_response(f"{status} {phrase}", fields)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def _prefers_json(accept: str) -> bool:
    if "json" not in accept:
        return False
    # Falcon's parser is loaded by whoever serves HTTP; an importer of Identity alone does without it.
    from falcon import InvalidMediaRange
    from falcon.util import mediatypes

    try:
        as_json = max(mediatypes.quality(name, accept) for name in ("application/json", "application/occi+json"))
        return as_json > max(mediatypes.quality(name, accept) for name in ("text/plain", "text/occi"))
    except (InvalidMediaRange, ValueError):
        return False
