"""What the runtime module needs of a platform: where nodes can be reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Target", "Targets"]


@dataclass(frozen=True)
class Target:
    """One instance of a node, and where it listens."""

    key: str
    host: str
    port: int


class Targets(Protocol):
    """Finds nodes on a platform."""

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[Target]:
        """The running instances of a node of a stack (its id); `port` names one of its ports, or is empty for the first."""
