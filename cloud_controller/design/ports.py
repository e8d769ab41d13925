"""What design requires of an identity service: to act for a tenant after its token has expired, and a service catalogue.

Each port has a local implementation and Keystone's; both pass the same contract tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Protocol

from archelon_core.auth import PresentedToken


class DelegationRefusedError(Exception):
    """The tenant's token cannot be used to create a delegation; the text gives the reason, for the tenant."""


class DelegationLostError(Exception):
    """The delegation no longer works; the text gives the reason."""


class IdentityDownError(Exception):
    """The identity service is unavailable."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delegation:
    """The delegation for an instance, by the tenant that ordered it.

    The record is the identity service's, such as the id of a trust; never a secret. Empty if the service was not called.
    """

    instance: str
    tenant: str
    record: str


@dataclasses.dataclass(frozen=True, slots=True)
class PlatformToken:
    """A short-lived token. `expires` is in seconds since the epoch."""

    token: str = dataclasses.field(repr=False)
    expires: float


class Delegations(Protocol):
    """Creates, uses and ends delegations. Thread-safe; every method may block: do not call one in a transaction."""

    def make(self, token: PresentedToken | None, tenant: str) -> str:
        """Delegate from the holder of a tenant's own token to us; return the record to store.

        Raises DelegationRefusedError if the token is not usable for this, or another tenant's; IdentityDownError.
        """

    def token(self, delegation: Delegation, audience: str) -> PlatformToken:
        """Return a new token for a platform, in the tenant's name. Raises DelegationLostError, IdentityDownError."""

    def end(self, record: str) -> None:
        """Revoke a delegation and all that derives from it; one that has ended is not an error. Raises IdentityDownError."""

    def held(self) -> Collection[str]:
        """Return every record, so that orphans can be ended. Raises IdentityDownError."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class CatalogueEntry:
    """The location of a service."""

    type: str
    region: str
    interface: str
    endpoint: str
    title: str = dataclasses.field(default="", compare=False)


class ServiceCatalogue(Protocol):
    """A catalogue that programs other than Archelon read, synchronized with ours."""

    def publish(self, entries: Sequence[CatalogueEntry]) -> int:
        """Make our entries there exactly these: create missing ones, repair differing ones, delete the rest.

        Returns the number of changes. Raises IdentityDownError, also if the service refuses.
        """

    def others(self) -> Sequence[CatalogueEntry]:
        """Return the entries that others made there. Raises IdentityDownError."""
