"""Records and their expiry: tenants read the history of their instances, and only the service manager writes it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from occi.core_model import Entity

from archelon_core import queue
from archelon_core.auth import TenantId
from archelon_core.auth.policy import Policy
from archelon_core.errors import ForbiddenError
from occi_service.server.backends import ShownAsStored

from ..lifecycle.history import History
from .exchanged_tokens import reading_rule, target_of
from .orders import caller_of


class RecordBackend(ShownAsStored):
    """Serves what only the service manager writes: records, and the links of instances."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def retrieve(self, entity: Entity, extras: Any) -> None:
        """Authorize reading."""
        identity = caller_of(extras)
        self._policy.check(reading_rule(entity.kind), identity, target_of(identity, entity, extras.get("reach")))

    def create(self, entity: Entity, extras: Any) -> None:
        """Refuse: raise ForbiddenError."""
        raise ForbiddenError(f"{entity.kind.term} entities are written by the service manager alone", "kind")

    delete = create

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Refuse: raise ForbiddenError."""
        self.create(old, extras)

    replace = update


class RecordExpiry(queue.Handler[str, str]):
    """Deletes records whose retention is over; keys are `tenant instance`."""

    def __init__(self, history: History) -> None:
        self._history = history

    def load(self, connection: sa.Connection, item: queue.Item) -> str:
        """Return the key: the work is due only when the retention is over."""
        return item.key

    def step(self, wanted: str) -> queue.Progress[str]:
        """Do nothing: `save` deletes the record."""
        return queue.Done(wanted)

    def save(self, connection: sa.Connection, item: queue.Item, observed: str) -> None:
        """Delete the record."""
        tenant, _, instance = observed.rpartition(" ")
        self._history.expire(connection, TenantId(tenant), instance)

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """Keep the record; its expiry can be enqueued again."""
