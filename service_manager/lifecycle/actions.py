"""Delivery of declared actions to orchestrators: each is sent until it is processed, or until none accepted it for too long.

An orchestrator that has accepted an action but not processed it responds with 503 and `Retry-After`. This restarts the timeout,
so a long action does not expire.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import names, orchestrator
from archelon_core import queue
from archelon_core.encryption import Cipher
from occi_service import client

from ..remote.cloud_controller import Caller, Cloud
from ..remote.orchestrator_calls import CircuitOpenError
from ..store import tables
from ..store.instances import Instance, Instances

log = logging.getLogger(__name__)

#: Seconds after which an invocation that was not accepted is dropped.
_TIMEOUT: Final = 300.0
#: Seconds between polls of an action in progress.
_POLL_INTERVAL: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Invocation:
    instance: Instance
    id: str
    name: str
    expired: bool
    attributes: Mapping[str, Any] = dataclasses.field(repr=False)


class Invocations(queue.Handler[_Invocation, bool]):
    """Handler of the topic `invocation`; keys are ids of invocations."""

    def __init__(self, instances: Instances, cloud: Cloud, cipher: Cipher, *, clock: Callable[[], float]) -> None:
        self._instances = instances
        self._cloud = cloud
        self._cipher = cipher
        self._clock = clock

    def load(self, connection: sa.Connection, item: queue.Item) -> _Invocation | None:
        """Return the invocation; None if it was processed, or its instance is gone."""
        table = tables.invocations
        row = connection.execute(sa.select(table).where(table.c.id == item.key)).one_or_none()
        instance = self._instances.find(connection, row.instance) if row is not None else None
        if row is None or instance is None:
            return None
        attributes = json.loads(self._cipher.decrypt(row.attributes, context=(row.id, "attributes")))
        expired = self._clock() > row.made + _TIMEOUT
        return _Invocation(instance, row.id, row.name, expired, attributes)

    def step(self, wanted: _Invocation) -> queue.Progress[bool]:
        """Send it. The orchestrator processes an id once."""
        instance = wanted.instance
        if wanted.expired:
            log.warning("action timed out", extra={"instance": instance.id, "action": wanted.name})
            return queue.Done(True)
        if instance.snapshot.activated != instance.snapshot.boots:
            return queue.Wait(0.5)
        attributes = {
            names.GENERATION: instance.snapshot.generation,
            orchestrator.EVENT_ID: wanted.id,
            orchestrator.ACTION_NAME: wanted.name,
            orchestrator.ACTION_ATTRIBUTES: dict(wanted.attributes),
        }
        caller = Caller(instance.tenant, instance.id, instance.request_id, instance.snapshot.boots)
        try:
            # One that took its order in the answer of `renew` has not been called yet.
            self._cloud.act(instance.address or self._cloud.address(caller), attributes, caller)
        except LookupError:
            return queue.Wait(0.5)
        except CircuitOpenError as error:
            return queue.Wait(error.seconds)
        except client.UnavailableError as error:
            if error.retry_after is None:
                # Not the orchestrator's own response, but that of a proxy in front of it.
                raise
            return queue.Wait(_POLL_INTERVAL, False)
        return queue.Done(True)

    def save(self, connection: sa.Connection, item: queue.Item, observed: bool) -> None:
        """Delete the invocation if it was processed or has expired; restart its timeout if it is in progress."""
        one = tables.invocations.c.id == item.key
        if observed:
            connection.execute(tables.invocations.delete().where(one))
        else:
            connection.execute(tables.invocations.update().where(one).values(made=self._clock()))

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """Drop the invocation."""
        log.warning("action could not be delivered", extra={"action": item.key, "reason": reason})
        self.save(connection, item, True)
