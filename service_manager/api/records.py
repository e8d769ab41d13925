"""Records, read and expired: tenants look at the history of what they had; nobody writes it but the service manager."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from occi.backend import KindBackend
from occi.core_model import Entity

from archelon_core import queue
from archelon_core.auth import TenantId
from archelon_core.auth.policy import Policy
from archelon_core.errors import ForbiddenError

from ..lifecycle.history import History
from .exchanged_tokens import reading_rule, target_of
from .orders import caller_of


class RecordBackend(KindBackend):
    """Serves what the service manager alone writes: records, and the links of instances."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def retrieve(self, entity: Entity, extras: Any) -> None:
        """A look at one's own."""
        identity = caller_of(extras)
        self._policy.check(reading_rule(entity.kind), identity, target_of(identity, entity, extras.get("reach")))

    def create(self, entity: Entity, extras: Any) -> None:
        """Refused."""
        raise ForbiddenError(f"{entity.kind.term} entities are written by the service manager alone", "kind")

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Refused."""
        self.create(old, extras)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """Refused."""
        self.create(old, extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Refused."""
        self.create(entity, extras)


class RecordExpiry(queue.Handler[str, str]):
    """Deletes a record when its time is over; keys are `tenant instance`."""

    def __init__(self, history: History) -> None:
        self._history = history

    def load(self, connection: sa.Connection, item: queue.Item) -> str:
        """Nothing to look up: the row was due, so it is time."""
        return item.key

    def step(self, wanted: str) -> queue.Progress[str]:
        """Nothing to do in the world."""
        return queue.Done(wanted)

    def save(self, connection: sa.Connection, item: queue.Item, observed: str) -> None:
        """Delete the record."""
        tenant, _, instance = observed.rpartition(" ")
        self._history.expire(connection, TenantId(tenant), instance)

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """Leave it: the next retention looks again."""
