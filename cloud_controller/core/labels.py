"""The labels of every object on a platform, by which it is found and its absence verified."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """The owner of an object: the service instance, its tenant, and the type of the service.

    The generation is that of the order that created it; the installation, that of the cloud controller, is empty if unused.
    """

    instance: str
    tenant: str
    service: str
    generation: int
    installation: str = ""
