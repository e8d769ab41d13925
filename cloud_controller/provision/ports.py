"""What the provision module needs of a platform: to configure the nodes of a stack, and to keep names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from archelon_api.dns_records import DnsRecord

from ..core.labels import Labels

__all__ = ["ConfigurationOrder", "Configured", "Configures", "NameOrder", "Named", "Names", "ProvisionError"]


class ProvisionError(Exception):
    """A configuration can never be carried out; the text says why and what to do, and holds no secret."""


@dataclass(frozen=True)
class ConfigurationOrder:
    """How a node should be configured.

    Args:
        id: names it. stack: id of the stack. node: name in its template; all its instances are meant.
        kind: `process`, `cloud-init`, `ssh` or `software-config`.
        content: as the kind has it; may hold secrets.
        attempt: counts the times that it was to be carried out; what failed is tried again when it is ordered again.
    """

    id: str
    instance: str
    stack: str
    node: str
    kind: str
    content: Mapping[str, Any] = field(repr=False)
    attempt: int = 1


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

    def remove(self, order: ConfigurationOrder) -> bool:
        """Remove what the platform keeps of it; nodes stay as they are. True when nothing is left; False: ask again.

        Raises:
            ProvisionError: something is in the way.
        """


@dataclass(frozen=True)
class NameOrder:
    """A record of DNS as it should be, and whose it is."""

    labels: Labels
    record: DnsRecord


@dataclass(frozen=True)
class Named:
    """How far it is: `waiting` or `active`; message: what it waits for."""

    state: str
    message: str = ""


class Names(Protocol):
    """Keeps names at a platform's name server. Records carry the mark of the instance that set them.

    Both are level-triggered and short, and may be repeated. Whatever else they raise: the name server is away, ask again.
    """

    def validate(self, order: NameOrder) -> None:
        """Refuse what can never be set; asks nobody. Raises ProvisionError."""

    def put(self, order: NameOrder) -> Named:
        """Set the record: this value and no other of the type at the name.

        Raises:
            ProvisionError: it cannot be: there is no such zone, or the name is another's.
        """

    def remove(self, order: NameOrder) -> bool:
        """Take it away, where it is this instance's. True when it is gone; False: ask again. Raises ProvisionError."""
