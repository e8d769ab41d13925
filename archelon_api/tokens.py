"""Claims of the signed tokens with which Archelon's services authenticate to one another (JWT, RFC 7519)."""

from __future__ import annotations

from typing import Final

#: Lifetime of a token in seconds. Its holder renews it until the instance is gone.
LIFETIME: Final = 900

AUDIENCE_CLOUD_CONTROLLER: Final = "cloud-controller"
AUDIENCE_SERVICE_MANAGER: Final = "service-manager"
#: The cloud controller's name as a caller.
CLOUD_CONTROLLER: Final = "cloud-controller"
CLAIM_TENANT: Final = "tenant"
CLAIM_INSTANCE: Final = "instance"


def audience_of_orchestrator(instance: str) -> str:
    """Return the audience of calls to an instance's orchestrator."""
    return f"orchestrator:{instance}"


def subject_of_instance(instance: str) -> str:
    """Return the subject of an orchestrator's own tokens."""
    return f"instance:{instance}"


def subject_of_service_manager(name: str) -> str:
    """Return the subject of a service manager's tokens."""
    return f"service-manager:{name}"
