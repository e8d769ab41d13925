"""Finds the address and port of a stack's servers.

A port is a number, or a name in the resource's `metadata` section, as in `metadata: {ports: {http: 8080}}`; without one, the
first there applies. Results are cached, since scrapes are far more frequent than changes of servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from heatclient.v1.client import Client

from ..interface import DeployError, ScrapeTarget, StackIndex
from .connection import HeatConnections
from .resources import FoundResource, resources_of

SERVER: Final = "OS::Nova::Server"
#: Seconds for which results are cached.
_CACHE_SECONDS: Final = 20.0
_CACHE_SIZE: Final = 512


class HeatTargets:
    """Finds servers of one region.

    Args:
        index: the region's orders.
        clock: monotonic seconds.
    """

    def __init__(
        self, connections: HeatConnections, index: StackIndex, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connections = connections
        self._index = index
        self._clock = clock
        self._cache: dict[tuple[str, str, str, str], tuple[float, Sequence[ScrapeTarget]]] = {}

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[ScrapeTarget]:
        """Return the servers of a node: the resource of that name, or the members of the group of that name."""
        key = (instance, stack, node, port)
        found = self._cache.get(key)
        if found is None or self._clock() >= found[0]:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            found = self._cache[key] = (self._clock() + _CACHE_SECONDS, self._query(instance, stack, node, port))
        return found[1]

    def _query(self, instance: str, stack: str, node: str, port: str) -> Sequence[ScrapeTarget]:
        labels = self._index.labels(instance)
        path = next((each.record.get("path") for each in self._index.all() if each.id == stack), None)
        if labels is None or not path:
            return ()
        try:
            found: Sequence[ScrapeTarget] = self._connections.call(
                labels, lambda client: _targets(client, path, node, port)
            )
        except DeployError:
            # Without a delegation; the stack's state reports it.
            return ()
        return found


def servers_of(client: Client, stack: str, node: str) -> list[tuple[FoundResource, str]]:
    """Return a node's servers with their addresses; an empty address if there is none yet."""
    return [(each, _address(client, each)) for each in found_servers(client, stack, node)]


def found_servers(client: Client, stack: str, node: str) -> list[FoundResource]:
    """Return a node's servers."""
    return [
        each
        for each in resources_of(client, stack)
        if each.type == SERVER and (each.path == node or each.path.startswith(f"{node}."))
    ]


def _address(client: Client, server: FoundResource) -> str:
    """Return the floating address, which is the reachable one, or else the first."""
    attributes = client.resources.get(server.stack, server.name).attributes
    found = [each for network in (attributes.get("addresses") or {}).values() for each in network]
    floating = [each for each in found if each.get("OS-EXT-IPS:type") == "floating"]
    return str(next((each["addr"] for each in (*floating, *found)), "") or attributes.get("accessIPv4") or "")


def _targets(client: Client, stack: str, node: str, port: str) -> list[ScrapeTarget]:
    found = []
    for server, address in servers_of(client, stack, node):
        number = int(port) if port.isdigit() else _port(client.resources.metadata(server.stack, server.name), port)
        if address and number:
            found.append(ScrapeTarget(server.path, address, number))
    return found


def _port(metadata: Any, name: str) -> int:
    ports = metadata.get("ports") if isinstance(metadata, dict) else None
    if not isinstance(ports, dict):
        return 0
    value = ports.get(name) if name else next(iter(ports.values()), 0)
    return value if isinstance(value, int) else 0
