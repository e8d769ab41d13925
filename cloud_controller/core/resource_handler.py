"""Base handler of all kinds of an instance's objects, the counterpart of `resource_backend`.

The key of a work item is the path of an object. A step reads the object's row and entity, and its observation is written to both.
The work is retried for ever: the wanted state stays wanted, and a platform must not keep anything of an instance.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

import sqlalchemy as sa

from archelon_api import disposal
from archelon_core.queue import Handler, Item, Retry, Topic

from .entities import Entities
from .resources import Object, Objects

W = TypeVar("W")
O = TypeVar("O")  # noqa: E741 - a step's observation, as in archelon_core.queue


class ResourceHandler(Handler[W, O]):
    """Base of the modules' handlers. A subclass defines `read`, `step` and `save`."""

    #: The topic of the work on these objects.
    topic: ClassVar[str]
    #: Seconds: timeout of a step, and longest pause between two attempts.
    timeout: ClassVar[float] = 60.0
    longest_pause: ClassVar[float] = 30.0

    def __init__(self, objects: Objects, entities: Entities) -> None:
        self.objects = objects
        self.entities = entities

    def as_topic(self) -> Topic[W, O]:
        """Return the topic with this handler, for a worker."""
        return Topic(self.topic, self, timeout=self.timeout, retry=Retry.forever(0.5, self.longest_pause))

    def load(self, connection: sa.Connection, item: Item) -> W | None:
        """Return the input of a step; None if the row's object is gone."""
        present = self.objects.find(connection, item.key)
        return None if present is None else self.read(connection, present)

    def read(self, connection: sa.Connection, present: Object) -> W:
        """Return the input of a step for an object."""
        raise NotImplementedError

    def remove(self, connection: sa.Connection, present: Object) -> None:
        """Delete the entity and the row of an object that is gone, and continue the instance's disposal, if there is one."""
        self.entities.remove(connection, present)
        self.objects.remove(connection, present.path)
        waiting = self.objects.find(connection, disposal.disposal_path(present.labels.instance))
        if waiting is not None:
            self.objects.enqueue(connection, waiting)
