"""Configures the servers of a stack, over SSH or by Heat's software deployments (`software_config`).

Configuration at a server's first boot belongs in the template's `user_data`.

Content of the kind `ssh`: `{"user": …, "key": private key, "host_keys": [public key, …], "port": 22, "files": {path: text},
"command": [program, argument, …], "timeout": seconds}`; port, files, command and timeout are optional. The command must be
idempotent: it runs again if the worker is killed before it reports the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ..interface import ConfigurationOrder, Configured, DeployError, ProvisionError, StackIndex
from .connection import HeatConnections
from .resources import FoundResource
from .software_config import SoftwareDeployments, software_of
from .ssh import parse_task, run
from .stacks import redact
from .targets import servers_of

_SHOWN: Final = 4096
_INSTEAD: Final = {
    "cloud-init": "write user_data in the template; cloud-init runs at a server's first boot",
    "process": "Heat has servers, not processes; use ssh or software-config",
}


class HeatConfigures:
    """Configures the servers of one region.

    Args:
        index: the region's orders.
        route: maps a server's address to the one that reaches it from this host.
    """

    def __init__(
        self, connections: HeatConnections, index: StackIndex, *, route: Callable[[str], str] = lambda address: address
    ) -> None:
        self._connections = connections
        self._index = index
        self._route = route

    def validate(self, order: ConfigurationOrder) -> None:
        """Check the content. Raises ProvisionError."""
        if order.kind == "software-config":
            software_of(order.content)
        elif order.kind == "ssh":
            parse_task(order.content)
        else:
            raise ProvisionError(f"{order.kind[:40]} is not available in a Heat region: {_INSTEAD.get(order.kind, '')}")

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Configure every server of the node. Raises ProvisionError."""
        self.validate(order)
        labels = self._index.labels(order.instance)
        path = next((each.record.get("path") for each in self._index.all() if each.id == order.stack), None)
        if labels is None or not path:
            return Configured("waiting", "waiting for its stack")
        try:
            if order.kind == "software-config":
                return self._connections.call(
                    labels, lambda client: SoftwareDeployments(client, labels, path).configure(order)
                )
            servers = self._connections.call(labels, lambda client: servers_of(client, path, order.node))
        except DeployError as problem:
            return Configured("failed", redact(str(problem), _secrets(order)))
        return self._over_ssh(order, servers)

    def remove(self, order: ConfigurationOrder) -> bool:
        """Delete the deployments from Heat. Raises ProvisionError."""
        labels = self._index.labels(order.instance)
        if order.kind != "software-config" or labels is None:
            return True
        try:
            return self._connections.call(labels, lambda client: SoftwareDeployments(client, labels).remove(order))
        except DeployError as problem:
            raise ProvisionError(str(problem)) from problem

    def _over_ssh(self, order: ConfigurationOrder, servers: Sequence[tuple[FoundResource, str]]) -> Configured:
        task = parse_task(order.content)
        if not servers:
            return Configured("failed", f"the stack has no server {order.node!r}")
        results = []
        for server, address in servers:
            if not address:
                return Configured("waiting", f"{server.path} has no address yet")
            outcome = run(task, self._route(address))
            if outcome.state != "done":
                return Configured(outcome.state, f"{server.path}: {outcome.result}")
            results.append(outcome.result)
        return Configured("done", "\n".join(results)[:_SHOWN])


def _secrets(order: ConfigurationOrder) -> list[str]:
    """Values that Heat may quote in its errors."""
    return [str(each) for part in ("inputs", "values") for each in (order.content.get(part) or {}).values()]
