"""Asks the API server, with the admin's certificate: as much as bringing a cluster up needs."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from .layout import Layout


class Api:
    """The API of one cluster. Connections are not kept."""

    def __init__(self, layout: Layout, user: str = "admin") -> None:
        self._url = layout.api
        directory = layout.certificates
        self._context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        self._context.load_cert_chain(directory / f"{user}.crt", directory / f"{user}.key")

    def get(self, path: str) -> Any:
        """A document; None where there is none, or the server does not answer (yet)."""
        request = urllib.request.Request(f"{self._url}{path}")
        try:
            with urllib.request.urlopen(request, timeout=5.0, context=self._context) as answer:
                body = answer.read()
        except urllib.error.HTTPError as refused:
            # It is an answer too, with a connection that nobody else closes.
            refused.close()
            return None
        except (urllib.error.URLError, OSError):
            return None
        return json.loads(body) if body.startswith(b"{") else body.decode()
