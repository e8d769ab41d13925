"""The URLs under which clients reach a service, for the absolute URIs in its responses.

They come from settings. A request only chooses among them, by its `Host`: any client can send any host, and a location that
repeated it would lead whoever follows it to that host. Forwarded fields (`X-Forwarded-Host`, `Forwarded`) are not read.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from archelon_core.addresses import public_url
from archelon_core.errors import BadRequestError, shown

_HOST: Final = re.compile(r"[A-Za-z0-9.\-_]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


@dataclasses.dataclass(frozen=True, slots=True)
class OwnUrl:
    """One URL of a service.

    Attributes:
        origin: scheme, host and port, as `https://example.org`.
        path: path below which a proxy in front publishes the service, as `/archelon`, or an empty string. The proxy removes it
            from the requests that it forwards.
    """

    origin: str
    path: str = ""

    @classmethod
    def of(cls, url: str) -> OwnUrl:
        """Split a URL. Raises ValueError if it is not one of a service (`addresses.public_url`)."""
        parts = urllib.parse.urlsplit(public_url(url))
        return cls(f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/"))

    def serves(self, host: str) -> bool:
        """Return whether a `Host` field names this URL's host and port."""
        scheme, _, own = self.origin.partition("://")
        port = _DEFAULT_PORTS[scheme]
        return host.lower().removesuffix(port) == own.lower().removesuffix(port)


def chosen(urls: tuple[OwnUrl, ...], environ: Mapping[str, Any]) -> OwnUrl | None:
    """Return the URL that the request's `Host` names, else the first; None if there are none."""
    if not urls:
        return None
    host = environ.get("HTTP_HOST", "")
    return next((url for url in urls if url.serves(host)), urls[0])


def requested(environ: Mapping[str, Any]) -> str:
    """Return the origin that the request's client wrote: scheme and `Host`.

    Raises:
        BadRequestError: `Host` is not a host name with an optional port.
    """
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    if _HOST.fullmatch(host) is None:
        raise BadRequestError(f"{shown(host)} is not a host name with an optional port", "header Host")
    return f"{environ['wsgi.url_scheme']}://{host}"
