"""Acting for a tenant after its token has ended: what an order asks of design, and what becomes of a delegation that nobody took.

Where a region that an order may reach is called in tenants' names, or something has to be ordered of another service manager, the
order has design make a delegation out of the tenant's own token: its one outward call, made before its transaction. An order of
another instance brings no such token; its delegation hangs on that instance's. Should the order then come to nothing (its
transaction fails, its process is killed), a piece of work that was written down before the call takes the delegation back.
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

#: The topic of what takes back delegations that no instance came of; its key is the instance's id.
ORPHANS: Final = "delegation.unclaimed"
#: Seconds in which an order has either come to something or not.
_PATIENCE: Final = 120.0
_RETRY: Final = 5


def is_needed(
    manifest: bundles.Manifest, region: str | None, known: DiscoveryCache, *, needs_others: bool = False
) -> bool:
    """Whether an order may reach a region that is called in tenants' names, or (`needs_others`) another service manager."""
    if needs_others:
        # Design gives tokens for those by the delegation, and theirs hang on it.
        return True
    if not known.delegating:
        return False
    # Where the instances that it is composed of go is theirs to say; and without regions of its own it may go anywhere.
    if manifest.dependencies or not (region or manifest.resources):
        return True
    return not known.delegating.isdisjoint([region] if region else manifest.resources)


class Delegating:
    """Has design make delegations.

    Args:
        database, queue: where it is written down first.
        cloud: where design is.
    """

    def __init__(self, database: Any, queue: work.WorkQueue, cloud: Cloud) -> None:
        self._database = database
        self._queue = queue
        self._cloud = cloud

    def make(
        self, instance: str, identity: Identity, token: PresentedToken | None, *, request_id: str | None = None
    ) -> str:
        """Have the delegation of a new instance made; its id. Called outside of any transaction.

        Raises:
            ForbiddenError: the token is no good for that, and why.
            ConflictError: the instance that ordered has none that this one's could hang on.
            UnavailableError: design or its identity service is away. Nothing was ordered.
        """
        with self._database.write() as connection:
            self._queue.enqueue(connection, ORPHANS, instance, tenant=identity.tenant_id, after=_PATIENCE)
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
                "this order needs a delegation, and who makes it cannot be reached now; nothing was ordered",
                "token",
                retry_after=_RETRY,
            ) from None
        return instance


class OrphanedDelegations(work.Handler[Caller, None]):
    """Handler of the topic `delegation.unclaimed`."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def load(self, connection: sa.Connection, item: work.Item) -> Caller | None:
        """For whom it was made; None where the instance is there, which takes its delegation back itself."""
        table = tables.instances
        there = connection.scalar(sa.select(table.c.id).where(table.c.id == item.key))
        return None if there is not None else Caller(TenantId(item.tenant or ""), item.key)

    def step(self, wanted: Caller) -> work.Progress[None]:
        """Take it back."""
        self._cloud.revoke_delegation(wanted)
        return work.Done()
