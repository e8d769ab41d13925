"""Declared actions on their way to an orchestrator: each is sent until it was worked off, or nobody took it for too long.

An orchestrator that has one, and has not worked it off, answers that it is to be told again: that counts as news of it, so what
takes long is not too old.
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

#: Seconds after which an invocation that could not be passed on is dropped.
_PATIENCE: Final = 300.0
#: Seconds between two looks at whether it was worked off.
_AGAIN: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Invocation:
    instance: Instance
    id: str
    name: str
    too_old: bool
    attributes: Mapping[str, Any] = dataclasses.field(repr=False)


class Invocations(queue.Handler[_Invocation, bool]):
    """Handler of the topic `invocation`; keys are ids of invocations."""

    def __init__(self, instances: Instances, cloud: Cloud, cipher: Cipher, *, clock: Callable[[], float]) -> None:
        self._instances = instances
        self._cloud = cloud
        self._cipher = cipher
        self._clock = clock

    def load(self, connection: sa.Connection, item: queue.Item) -> _Invocation | None:
        """The invocation; None if it was worked off, or its instance is gone."""
        table = tables.invocations
        row = connection.execute(sa.select(table).where(table.c.id == item.key)).one_or_none()
        instance = self._instances.find(connection, row.instance) if row is not None else None
        if row is None or instance is None:
            return None
        attributes = json.loads(self._cipher.decrypt(row.attributes, context=(row.id, "attributes")))
        too_old = self._clock() > row.made + _PATIENCE
        return _Invocation(instance, row.id, row.name, too_old, attributes)

    def step(self, wanted: _Invocation) -> queue.Progress[bool]:
        """Pass it on. The orchestrator takes one id once."""
        instance = wanted.instance
        if wanted.too_old:
            log.warning("nobody took an action in time", extra={"instance": instance.id, "action": wanted.name})
            return queue.Done(True)
        if instance.address is None or instance.snapshot.activated != instance.snapshot.boots:
            return queue.Wait(0.5)
        attributes = {
            names.GENERATION: instance.snapshot.generation,
            orchestrator.EVENT_ID: wanted.id,
            orchestrator.ACTION_NAME: wanted.name,
            orchestrator.ACTION_ATTRIBUTES: dict(wanted.attributes),
        }
        caller = Caller(instance.tenant, instance.id, instance.request_id, instance.snapshot.boots)
        try:
            self._cloud.act(instance.address, attributes, caller)
        except CircuitOpenError as error:
            return queue.Wait(error.seconds)
        except client.UnavailableError as error:
            if error.retry_after is None:
                # Not its word, but that of something in front of it.
                raise
            return queue.Wait(_AGAIN, False)
        return queue.Done(True)

    def save(self, connection: sa.Connection, item: queue.Item, observed: bool) -> None:
        """It was worked off or is too old, or it is being worked off."""
        one = tables.invocations.c.id == item.key
        if observed:
            connection.execute(tables.invocations.delete().where(one))
        else:
            connection.execute(tables.invocations.update().where(one).values(made=self._clock()))

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """It will not be: drop it."""
        log.warning("an action could not be passed on", extra={"action": item.key, "reason": reason})
        self.save(connection, item, True)
