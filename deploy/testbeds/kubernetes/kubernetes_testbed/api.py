"""A minimal client of the API server, with the admin's certificate."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from .layout import Layout


class Api:
    """The API of one cluster; opens a connection for each request."""

    def __init__(self, layout: Layout, user: str = "admin") -> None:
        self._url = layout.api
        directory = layout.certificates
        self._context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        self._context.load_cert_chain(directory / f"{user}.crt", directory / f"{user}.key")

    def get(self, path: str) -> Any:
        """Return a document, or None if it does not exist or the server does not respond (yet)."""
        request = urllib.request.Request(f"{self._url}{path}")
        try:
            with urllib.request.urlopen(request, timeout=5.0, context=self._context) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            # The error is a response, whose connection has to be closed.
            error.close()
            return None
        except (urllib.error.URLError, OSError):
            return None
        return json.loads(body) if body.startswith(b"{") else body.decode()
