"""The base of the handlers of all kinds of an instance's objects, as `resource_backend` is of their backends.

A work item's key is the path of an object: its row and entity flow in, and what a step observed flows out into both. The work is
never given up: what is wanted stays wanted, and what a platform holds of an instance has to go with it.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

import sqlalchemy as sa

from archelon_core.queue import Handler, Item, Retry, Topic

from .entities import Entities
from .resources import Object, Objects

__all__ = ["ResourceHandler"]

W = TypeVar("W")
O = TypeVar("O")  # noqa: E741 - what a step observed, as in archelon_core.queue


class ResourceHandler(Handler[W, O]):
    """Base of the modules' handlers. A subclass defines `read`, `step` and `save`.

    Args:
        objects: rows and work.
        entities: of these objects.
    """

    #: The topic that works on these objects.
    topic: ClassVar[str]
    #: Seconds after which a step is overdue, and between two attempts at most.
    timeout: ClassVar[float] = 60.0
    longest_pause: ClassVar[float] = 30.0

    def __init__(self, objects: Objects, entities: Entities) -> None:
        self.objects = objects
        self.entities = entities

    def as_topic(self) -> Topic[W, O]:
        """The topic with this handler, for a worker."""
        return Topic(self.topic, self, timeout=self.timeout, retry=Retry.for_ever(0.5, self.longest_pause))

    def load(self, connection: sa.Connection, item: Item) -> W | None:
        """What a step has to know of the row's object; None where that is gone."""
        present = self.objects.find(connection, item.key)
        return None if present is None else self.read(connection, present)

    def read(self, connection: sa.Connection, present: Object) -> W:
        """What a step has to know of an object, beside its row."""
        raise NotImplementedError

    def remove(self, connection: sa.Connection, present: Object) -> None:
        """Forget an object of which nothing is left: entity and row."""
        self.entities.remove(connection, present)
        self.objects.remove(connection, present.path)
