"""The labels of every object on a platform, by which it is found and its absence verified."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """The owner of an object.

    Args:
        instance: id of the service instance. tenant: owns the instance. service: type of the service.
        generation: of the order that created the object.
        installation: of the cloud controller that created it; empty if unused.
    """

    instance: str
    tenant: str
    service: str
    generation: int
    installation: str = ""
