"""Clients of other services, shared by all orchestrators of a process: connections hold no token, each call brings its own."""

from __future__ import annotations

import threading

from occi_service import client


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
                found = self._clients[url] = client.Client(url)
        return found

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for each in self._clients.values():
                each.close()
