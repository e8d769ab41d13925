"""Declared actions on their way to an orchestrator: each is sent until it is taken, or is too old."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa

from occi_service import work
from occi_service.encryption import Cipher
from occi_service.wire import names, orchestrator

from . import tables
from .cloud import Caller, Cloud
from .instances import Instance, Instances
from .lines import LeftAloneError

__all__ = ["Invocations"]

#: Seconds after which an invocation that could not be passed on is dropped.
_PATIENCE: Final = 300.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Invocation:
    instance: Instance
    id: str
    name: str
    attributes: Mapping[str, Any] = dataclasses.field(repr=False)


class Invocations:
    """`occi_service.work.Handler` of the topic `invocation`; keys are ids of invocations."""

    def __init__(self, instances: Instances, cloud: Cloud, cipher: Cipher, *, clock: Callable[[], float]) -> None:
        self._instances = instances
        self._cloud = cloud
        self._cipher = cipher
        self._clock = clock

    def load(self, connection: sa.Connection, item: work.Item) -> tuple[_Invocation, None] | None:
        """The invocation; None if it was taken, or its instance is gone."""
        table = tables.invocations
        row = connection.execute(sa.select(table).where(table.c.id == item.key)).one_or_none()
        instance = self._instances.find(connection, row.instance) if row is not None else None
        if row is None or instance is None or self._clock() > row.made + _PATIENCE:
            return None
        attributes = json.loads(self._cipher.decrypt(row.attributes, context=(row.id, "attributes")))
        return _Invocation(instance, row.id, row.name, attributes), None

    def step(self, wanted: _Invocation, _nothing: None) -> work.Progress[Any]:
        """Pass it on. The orchestrator takes one id once."""
        instance = wanted.instance
        if instance.address is None or instance.snapshot.activated != instance.snapshot.boots:
            return work.Wait(0.5)
        attributes = {
            names.GENERATION: instance.snapshot.generation,
            orchestrator.EVENT_ID: wanted.id,
            orchestrator.ACTION_NAME: wanted.name,
            orchestrator.ACTION_ATTRIBUTES: dict(wanted.attributes),
        }
        caller = Caller(instance.tenant, instance.id, instance.request_id, instance.snapshot.boots)
        try:
            self._cloud.act(instance.address, attributes, caller)
        except LeftAloneError as error:
            return work.Wait(error.seconds)
        return work.Done(wanted.id)

    def save(self, connection: sa.Connection, item: work.Item, observed: Any) -> None:
        """It was taken."""
        connection.execute(tables.invocations.delete().where(tables.invocations.c.id == item.key))

    def gave_up(self, connection: sa.Connection, item: work.Item, reason: str) -> None:
        """It will not be: drop it."""
        self.save(connection, item, None)
