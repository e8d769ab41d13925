"""The base URL of a service, and the mapping between its URIs and the client's paths.

The client's paths are relative to the base URL: with the base `https://host/deploy`, the path `/stack/1` is
`https://host/deploy/stack/1`, and the server mounted there writes `/deploy/stack/1` or the whole URI. Locations in responses
always become paths, whatever host the server names itself by: a request with a token only goes to the configured host.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Final

_PATH: Final = re.compile(r"/[!$-;=?@A-Z\[\]_a-z~]*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Address:
    """A parsed base URL.

    Attributes:
        scheme, host, port: of the server.
        prefix: mount point of the service, without a trailing slash.
        origin: scheme, host and port as in a URL.

    Raises:
        ValueError: the base URL is not an http or https URL, or has a user, query or fragment.
    """

    __slots__ = ("host", "origin", "port", "prefix", "scheme")

    def __init__(self, base_url: str) -> None:
        parts = urllib.parse.urlsplit(base_url)
        if parts.username is not None or parts.password is not None:
            # The URL is not shown, since it contains the password.
            raise ValueError("the base URL has a user or password; use a token instead")
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"{base_url.partition('?')[0]!r} is not a base URL such as https://occi.example.org/path: "
                "http or https, a host, no query and no fragment"
            )
        self.scheme = parts.scheme
        self.host = parts.hostname
        self.port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self.prefix = parts.path.rstrip("/")
        if self.prefix:
            _check(self.prefix)
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        self.origin = f"{self.scheme}://{host}{port}"

    def path(self, where: str) -> str:
        """Return the client's path of a path or of a URI below the base URL.

        Raises:
            ValueError: it leads to another host, or has characters that are not valid in a path.
        """
        if not where.startswith("/") and "://" in where:
            found = self.here(where)
            if not found.startswith("/"):
                raise ValueError(f"{where.partition('?')[0]!r} is not below {self.origin}{self.prefix}")
            where = found
        _check(where)
        return where

    def target(self, path: str) -> str:
        """Return a client's path as sent in a request line, or in a document for the server."""
        return self.prefix + path

    def url(self, path: str) -> str:
        """Return the URL of a path for people: without the query, which may be confidential."""
        return f"{self.origin}{self.prefix}{path.partition('?')[0]}"

    def here(self, uri: str) -> str:
        """Return a URI in a response as a client's path if it belongs to this service, and otherwise unchanged."""
        if uri.startswith("/") and not uri.startswith("//"):
            path = uri
        else:
            parts = urllib.parse.urlsplit(uri)
            if parts.scheme != self.scheme or (parts.hostname or "") != self.host:
                return uri
            if (parts.port or _DEFAULT_PORTS[self.scheme]) != self.port:
                return uri
            path = "/" + uri.partition("://")[2].partition("/")[2]
        if self.prefix and not path.startswith(self.prefix + "/"):
            return uri
        return path[len(self.prefix) :]

    def location(self, uri: str) -> str:
        """Return the client's path of a location, whatever host it names. Raises ValueError if it has no path."""
        path = uri
        if not uri.startswith("/") or uri.startswith("//"):
            parts = urllib.parse.urlsplit(uri)
            path = parts.path + (f"?{parts.query}" if parts.query else "")
        if self.prefix and path.startswith(self.prefix + "/"):
            path = path[len(self.prefix) :]
        _check(path)
        return path


def _check(path: str) -> None:
    if _PATH.fullmatch(path) is None or path.startswith("//"):
        raise ValueError(
            f"{path[:120]!r} is not a path: it begins with one slash and has no spaces, quotes or "
            "characters that need percent-encoding"
        )
    segments = path.partition("?")[0].split("/")
    if "." in segments or ".." in segments:
        raise ValueError(f"{path[:120]!r} is not a path: it has a segment that is . or ..")
