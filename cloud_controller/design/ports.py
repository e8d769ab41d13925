"""What design needs of an identity service: that it lets us act for a tenant after its token has ended, and lists services.

Each port has a local implementation and Keystone's; one set of contract tests runs on both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Protocol

from archelon_core.auth import PresentedToken


class DelegationRefusedError(Exception):
    """The tenant's token cannot be used to make a delegation; the text says why, for the tenant."""


class DelegationLostError(Exception):
    """Nobody acts for the tenant any more; the text says what happened."""


class IdentityDownError(Exception):
    """The identity service cannot be asked now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delegation:
    """Who may be acted for.

    Attributes:
        instance: whose resources it is about. tenant: who ordered it.
        record: what the identity service gave, such as the id of a trust; never a secret. Empty: nothing was asked of it.
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
    """Makes, uses and ends delegations. Thread-safe; every method may take as long as a call: call none in a transaction."""

    def make(self, token: PresentedToken | None, tenant: str) -> str:
        """Let us act for the holder of a tenant's own token from now on; the record to keep.

        Raises:
            DelegationRefusedError: the token is no good for this, or another tenant's.
            IdentityDownError: nobody knows.
        """

    def token(self, delegation: Delegation, audience: str) -> PlatformToken:
        """A fresh token for a platform, in the tenant's name.

        Raises:
            DelegationLostError: nobody acts for the tenant any more.
            IdentityDownError: nobody knows.
        """

    def end(self, record: str) -> None:
        """Take back what `make` made, and whatever was derived from it. One that has ended is no error.

        Raises:
            IdentityDownError: nobody knows.
        """

    def held(self) -> Collection[str]:
        """Every record that there is, so that those of nobody can be ended. Raises IdentityDownError."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class CatalogueEntry:
    """Where a service is."""

    type: str
    region: str
    interface: str
    endpoint: str
    title: str = dataclasses.field(default="", compare=False)


class ServiceCatalogue(Protocol):
    """A catalogue that other people's programs read, kept the same as ours."""

    def publish(self, entries: Sequence[CatalogueEntry]) -> int:
        """Have exactly these of ours there: what lacks is made, what differs set right, what is too much taken out.

        Returns:
            How many changes that took.

        Raises:
            IdentityDownError: it cannot be asked now, or refuses.
        """

    def others(self) -> Sequence[CatalogueEntry]:
        """What others have entered there. Raises IdentityDownError."""
