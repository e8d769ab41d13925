"""Configures the servers of a stack: over SSH, or by Heat's software deployments (`software_config`). What is done at a server's
first start stands in its template's `user_data`.

Content of the kind `ssh`: `{"user": …, "key": private key, "host_keys": [public key, …], "port": 22, "files": {path: text},
"command": [program, argument, …], "timeout": seconds}`; port, files, command and timeout may be left out. It is carried out again
where the worker was killed before it had told what came of it, so it has to bear that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ..interface import ConfigurationOrder, Configured, DeployError, ProvisionError, StackIndex
from .connection import HeatConnections
from .resources import Found
from .software_config import SoftwareDeployments, software_of
from .ssh import errand_of, run
from .stacks import without
from .targets import servers_of

_SHOWN: Final = 4096
_INSTEAD: Final = {
    "cloud-init": "write user_data in the template: cloud-init works at a server's first start",
    "process": "a region of Heat has servers and no processes; use ssh or software-config",
}


class HeatConfigures:
    """Servers of one region.

    Args:
        book: what was ordered there.
        way: the address by which a server's own is reached from here.
    """

    def __init__(
        self, connections: HeatConnections, index: StackIndex, *, way: Callable[[str], str] = lambda address: address
    ) -> None:
        self._connections = connections
        self._index = index
        self._way = way

    def validate(self, order: ConfigurationOrder) -> None:
        """Check the content. Raises ProvisionError."""
        if order.kind == "software-config":
            software_of(order.content)
        elif order.kind == "ssh":
            errand_of(order.content)
        else:
            raise ProvisionError(f"{order.kind[:40]} is not done in a region of Heat: {_INSTEAD.get(order.kind, '')}")

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Carry it out on every server of the node. Raises ProvisionError."""
        self.validate(order)
        labels = self._index.labels(order.instance)
        path = next((each.record.get("path") for each in self._index.all() if each.id == order.stack), None)
        if labels is None or not path:
            return Configured("waiting", "waits for its stack")
        try:
            if order.kind == "software-config":
                return self._connections.call(
                    labels, lambda client: SoftwareDeployments(client, labels, path).configure(order)
                )
            servers = self._connections.call(labels, lambda client: servers_of(client, path, order.node))
        except DeployError as problem:
            return Configured("failed", without(str(problem), _secrets(order)))
        return self._over_ssh(order, servers)

    def remove(self, order: ConfigurationOrder) -> bool:
        """Remove what Heat has of it. Raises ProvisionError."""
        labels = self._index.labels(order.instance)
        if order.kind != "software-config" or labels is None:
            return True
        try:
            return self._connections.call(labels, lambda client: SoftwareDeployments(client, labels).remove(order))
        except DeployError as problem:
            raise ProvisionError(str(problem)) from problem

    def _over_ssh(self, order: ConfigurationOrder, servers: Sequence[tuple[Found, str]]) -> Configured:
        errand = errand_of(order.content)
        if not servers:
            return Configured("failed", f"the stack has no server {order.node!r}")
        told = []
        for server, address in servers:
            if not address:
                return Configured("waiting", f"{server.path} has no address yet")
            outcome = run(errand, self._way(address))
            if outcome.state != "done":
                return Configured(outcome.state, f"{server.path}: {outcome.result}")
            told.append(outcome.result)
        return Configured("done", "\n".join(told)[:_SHOWN])


def _secrets(order: ConfigurationOrder) -> list[str]:
    """Values that Heat may repeat in its errors."""
    return [str(each) for part in ("inputs", "values") for each in (order.content.get(part) or {}).values()]
