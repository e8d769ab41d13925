"""The labels that every object made on any platform carries, so that it can be found and its absence verified."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """Whose an object is.

    Args:
        instance: id of the service instance. tenant: who ordered it. service: type of the service.
        generation: of the order that made it.
        installation: of the cloud controller that made it; empty where nobody asks.
    """

    instance: str
    tenant: str
    service: str
    generation: int
    installation: str = ""
