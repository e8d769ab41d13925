"""Rendering of refusals as responses. The OCCI application supplies a renderer for the requested rendering; this default answers
in plain text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol
from wsgiref.types import StartResponse, WSGIEnvironment

from ..errors import HttpError


class ErrorRenderer(Protocol):
    """Starts an error response and returns its body."""

    def __call__(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        error: HttpError,
    ) -> Iterable[bytes]:
        """Send the error's headers in addition to the renderer's own."""


def render_plain_error(environ: WSGIEnvironment, start_response: StartResponse, error: HttpError) -> Iterable[bytes]:
    """The default `ErrorRenderer`: `text/plain`, or `application/json` where `Accept` prefers it."""
    if _prefers_json(environ.get("HTTP_ACCEPT", "")):
        document = {
            "error": {"status": error.status, "title": error.title, "message": error.message, "where": error.where}
        }
        body = json.dumps(document, ensure_ascii=False).encode()
        media_type = "application/json"
    else:
        body = f"{error.title}: {error}\n".encode()
        media_type = "text/plain; charset=utf-8"
    fields = [
        ("Content-Type", media_type),
        ("Content-Length", str(len(body))),
        # A refusal depends on the token, which is not part of a cache's key.
        ("Cache-Control", "no-store"),
        *error.headers.items(),
    ]
    start_response(f"{error.status} {error.title}", fields)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def _prefers_json(accept: str) -> bool:
    if "json" not in accept:
        return False
    # A lazy import: an importer of Identity alone does without Falcon.
    from falcon import InvalidMediaRange
    from falcon.util import mediatypes

    try:
        as_json = max(mediatypes.quality(name, accept) for name in ("application/json", "application/occi+json"))
        return as_json > max(mediatypes.quality(name, accept) for name in ("text/plain", "text/occi"))
    except (InvalidMediaRange, ValueError):
        return False
