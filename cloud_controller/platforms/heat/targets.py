"""Where a stack's servers can be reached: an address that Heat knows of each, and a port.

A port is a number, or a name that the resource's `metadata` section gives one for, as `metadata: {ports: {http: 8080}}`; without
one, the first that stands there. Servers come and go slowly beside scrapes, so what was found is good for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from heatclient.v1.client import Client

from ..interface import DeployError, StackIndex, Target
from .connection import HeatConnections
from .resources import Found, resources_of

SERVER: Final = "OS::Nova::Server"
#: Seconds that what was found is good for.
_GOOD_FOR: Final = 20.0
_KEPT: Final = 512


class HeatTargets:
    """Servers of one region.

    Args:
        book: what was ordered there.
        clock: seconds that only grow.
    """

    def __init__(
        self, connections: HeatConnections, index: StackIndex, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connections = connections
        self._index = index
        self._clock = clock
        self._found: dict[tuple[str, str, str, str], tuple[float, Sequence[Target]]] = {}

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[Target]:
        """The servers of a node: the resource of that name, or those in a group of that name."""
        key = (instance, stack, node, port)
        found = self._found.get(key)
        if found is None or self._clock() >= found[0]:
            if len(self._found) >= _KEPT:
                self._found.clear()
            found = self._found[key] = (self._clock() + _GOOD_FOR, self._look(instance, stack, node, port))
        return found[1]

    def _look(self, instance: str, stack: str, node: str, port: str) -> Sequence[Target]:
        labels = self._index.labels(instance)
        path = next((each.record.get("path") for each in self._index.all() if each.id == stack), None)
        if labels is None or not path:
            return ()
        try:
            found: Sequence[Target] = self._connections.call(labels, lambda client: _targets(client, path, node, port))
        except DeployError:
            # Nobody acts for the tenant: its stack says so.
            return ()
        return found


def servers_of(client: Client, stack: str, node: str) -> list[tuple[Found, str]]:
    """A node's servers with an address each; empty where one has none yet."""
    return [(each, _address(client, each)) for each in found_servers(client, stack, node)]


def found_servers(client: Client, stack: str, node: str) -> list[Found]:
    """A node's servers."""
    return [
        each
        for each in resources_of(client, stack)
        if each.type == SERVER and (each.path == node or each.path.startswith(f"{node}."))
    ]


def _address(client: Client, server: Found) -> str:
    """A floating address where there is one, for it is there to be reached; else the first."""
    attributes = client.resources.get(server.stack, server.name).attributes
    found = [each for network in (attributes.get("addresses") or {}).values() for each in network]
    floating = [each for each in found if each.get("OS-EXT-IPS:type") == "floating"]
    return str(next((each["addr"] for each in (*floating, *found)), "") or attributes.get("accessIPv4") or "")


def _targets(client: Client, stack: str, node: str, port: str) -> list[Target]:
    found = []
    for server, address in servers_of(client, stack, node):
        number = int(port) if port.isdigit() else _port(client.resources.metadata(server.stack, server.name), port)
        if address and number:
            found.append(Target(server.path, address, number))
    return found


def _port(metadata: Any, name: str) -> int:
    ports = metadata.get("ports") if isinstance(metadata, dict) else None
    if not isinstance(ports, dict):
        return 0
    value = ports.get(name) if name else next(iter(ports.values()), 0)
    return value if isinstance(value, int) else 0
