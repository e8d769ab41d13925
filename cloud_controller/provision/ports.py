"""What the provision module needs of a platform: to configure the nodes of a stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["ConfigurationOrder", "Configured", "Configures", "ProvisionError"]


class ProvisionError(Exception):
    """A configuration can never be carried out; the text says why and what to do, and holds no secret."""


@dataclass(frozen=True)
class ConfigurationOrder:
    """How a node should be configured.

    Args:
        id: names it. stack: id of the stack. node: name in its template; all its instances are meant.
        kind: `process`, `cloud-init`, `ssh` or `software-config`.
        content: as the kind has it; may hold secrets.
    """

    id: str
    instance: str
    stack: str
    node: str
    kind: str
    content: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Configured:
    """What came of it: `waiting` (no node to configure yet), `done` or `failed`, and what was printed."""

    state: str
    result: str


class Configures(Protocol):
    """Configures nodes on a platform."""

    def validate(self, order: ConfigurationOrder) -> None:
        """Refuse what can never be carried out. Raises ProvisionError."""

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Carry it out on every instance of the node; repeating it must be harmless. Raises ProvisionError."""
