"""Configuring what runs in pods: not from outside.

A pod is made anew whenever it likes, by the cluster, from its template; what somebody wrote into a running one would be lost with
it, and writing there needs the right to run commands in tenants' containers, which the cloud controller is better off
without. What a node needs to know stands in its template: environment, ConfigMaps, Secrets, filled with the stack's parameters.
"""

from __future__ import annotations

from ...provision.ports import ConfigurationOrder, Configured, ProvisionError

__all__ = ["KubernetesConfigures"]


class KubernetesConfigures:
    """Refuses, and says what to do instead."""

    def validate(self, order: ConfigurationOrder) -> None:
        """Raises ProvisionError, always."""
        raise ProvisionError(
            f"a configuration of the kind {order.kind!r} cannot reach into pods: put it into the template, as environment "
            "or as a ConfigMap that is mounted, and fill it with parameters; an update of the stack rolls it out"
        )

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Raises ProvisionError, always."""
        self.validate(order)
        raise AssertionError("validate refuses everything")

    def remove(self, order: ConfigurationOrder) -> bool:
        """Nothing was made."""
        return True
