"""Bundles by digest: the archive itself, put and got at `/bundle/<sha256>`, and listed as OCCI."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import falcon
import falcon.routing

from archelon_api import deploy
from archelon_core.errors import BadRequestError, NotFoundError, UnsupportedMediaTypeError

if TYPE_CHECKING:
    from .state import FakeState

__all__ = ["Bundles", "Digest"]


class Digest(falcon.routing.BaseConverter):
    """A SHA-256 in a path. What is none, the collection's empty last part for one, is left to OCCI."""

    def convert(self, value: str) -> str | None:
        return value if re.fullmatch("[0-9a-f]{64}", value) else None


class Bundles:
    """A resource of Falcon's."""

    def __init__(self, state: FakeState) -> None:
        self._state = state
        self._archives: dict[str, bytes] = {}

    def on_get(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """The archive."""
        archive = self._archives.get(digest)
        if archive is None:
            raise NotFoundError(f"there is no bundle {digest}", "path")
        resp.content_type = deploy.BUNDLE_MEDIA_TYPE
        resp.data = archive

    on_head = on_get

    def on_put(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Keep an archive: 201, and 200 where it is here already."""
        if req.content_type != deploy.BUNDLE_MEDIA_TYPE:
            raise UnsupportedMediaTypeError(f"a bundle is {deploy.BUNDLE_MEDIA_TYPE}", "header Content-Type")
        archive = req.bounded_stream.read()
        if hashlib.sha256(archive).hexdigest() != digest:
            raise BadRequestError("the archive's SHA-256 is another than the path says", "body")
        path, known = deploy.bundle_path(digest), digest in self._archives
        resp.status = falcon.HTTP_200 if known else falcon.HTTP_201
        resp.set_header("Location", self._state.url("deploy") + path)
        if not known:
            self._archives[digest] = archive
            self._state.keep("deploy", path, {deploy.BUNDLE_SIZE: len(archive)})
            self._state.journal.effect("bundle taken", "", digest=digest, size=len(archive))
