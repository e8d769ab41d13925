"""Delegations: the right to act for a tenant after its token has expired, and its revocation if no instance used it.

If an order may reach a region that is called on behalf of tenants, or may order at another service manager, it has design create
a delegation from the tenant's own token: the order's only outgoing call, made before its transaction. An order of another
instance has no such token; its delegation is a child of that instance's. If the order then fails (its transaction fails, its
process is killed), a work item that was enqueued before the call revokes the delegation.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

import bundles
from archelon_core import queue as work
from archelon_core.auth import Identity, PresentedToken, TenantId, TokenKind
from archelon_core.errors import ConflictError, ForbiddenError, UnavailableError
from occi_service import client

from ..store import tables
from .cloud_controller import Caller, Cloud
from .discovery import DiscoveryCache

#: Topic of the work that revokes orphaned delegations; its key is the instance's id.
ORPHANS: Final = "delegation.unclaimed"
#: Seconds after which an order has either been committed or failed.
_ORDER_TIMEOUT: Final = 120.0
_RETRY_AFTER: Final = 5


def is_needed(
    manifest: bundles.Manifest, region: str | None, known: DiscoveryCache, *, needs_others: bool = False
) -> bool:
    """Return whether an order may reach a delegating region or (`needs_others`) another service manager."""
    if needs_others:
        # Design issues tokens for it by the delegation, of which the delegations there are children.
        return True
    if not known.delegating:
        return False
    # The region of a composed instance is chosen by its own order; a service without regions may go to any.
    if manifest.dependencies or not (region or manifest.resources):
        return True
    return not known.delegating.isdisjoint([region] if region else manifest.resources)


class Delegating:
    """Creates delegations at design.

    Args:
        database, queue: where the revocation is enqueued first.
        cloud: the client of design.
    """

    def __init__(self, database: Any, queue: work.WorkQueue, cloud: Cloud) -> None:
        self._database = database
        self._queue = queue
        self._cloud = cloud

    def make(
        self, instance: str, identity: Identity, token: PresentedToken | None, *, request_id: str | None = None
    ) -> str:
        """Create the delegation of a new instance and return the instance's id. Called outside of any transaction.

        Raises:
            ForbiddenError: design refuses the token; the text contains the reason.
            ConflictError: the instance that orders has no delegation.
            UnavailableError: design or its identity service is unavailable. Nothing was ordered.
        """
        with self._database.write() as connection:
            self._queue.enqueue(connection, ORPHANS, instance, tenant=identity.tenant_id, after=_ORDER_TIMEOUT)
        by_instance = identity.kind is TokenKind.INSTANCE
        caller = Caller(identity.tenant_id, instance, request_id)
        try:
            self._cloud.delegate(
                caller,
                token=None if by_instance or token is None else token.reveal(),
                parent=identity.instance_id if by_instance else None,
            )
        except client.ForbiddenError as error:
            raise ForbiddenError(error.message, "token") from None
        except (client.BadRequestError, client.ConflictError) as error:
            raise ConflictError(error.message, "token") from None
        except client.ClientError:
            raise UnavailableError(
                "this order needs a delegation, and design cannot create one now; nothing was ordered",
                "token",
                retry_after=_RETRY_AFTER,
            ) from None
        return instance


class OrphanedDelegations(work.Handler[Caller, None]):
    """Handler of the topic `delegation.unclaimed`."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def load(self, connection: sa.Connection, item: work.Item) -> Caller | None:
        """Return the delegation's caller; None if the instance exists, which revokes its delegation itself."""
        table = tables.instances
        exists = connection.scalar(sa.select(table.c.id).where(table.c.id == item.key)) is not None
        return None if exists else Caller(TenantId(item.tenant or ""), item.key)

    def step(self, wanted: Caller) -> work.Progress[None]:
        """Revoke the delegation."""
        self._cloud.revoke_delegation(wanted)
        return work.Done()
