"""Configures servers of stacks."""

from __future__ import annotations

from ...platform import StackBook
from ...provision.ports import ConfigurationOrder, Configured, ProvisionError
from .connection import Connections

__all__ = ["HeatConfigures"]


class HeatConfigures:
    """Servers of one region."""

    def __init__(self, connections: Connections, book: StackBook) -> None:
        self._connections = connections
        self._book = book

    def validate(self, order: ConfigurationOrder) -> None:
        """Refuse what is not carried out here."""
        raise ProvisionError(f"{order.kind} is nothing that a region of Heat does; configure in the template")

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Refused."""
        self.validate(order)
        return Configured("failed", "")
