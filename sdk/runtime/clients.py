"""Clients of other services, shared by all orchestrators of a process: connections hold no token, each call brings its own."""

from __future__ import annotations

import threading
from typing import Final

from archelon_api import deploy, design, dns
from occi_service import client
from occi_service.model import type_id

#: Locations of the kinds that orchestrators list, so that no client reads a query interface for them.
_LOCATIONS: Final = {type_id(each): each.location for each in (deploy.STACK, design.SERVICE, dns.RECORD)}


class Clients:
    """Clients without a token, by base URL. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[str, client.Client] = {}

    def at(self, url: str) -> client.Client:
        """Return the client of a service; call through its `using`, with a token and timeouts."""
        with self._lock:
            found = self._clients.get(url)
            if found is None:
                found = self._clients[url] = client.Client(url, locations=_LOCATIONS.get)
        return found

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for each in self._clients.values():
                each.close()
