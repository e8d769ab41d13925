"""Following the regions whose platforms can be followed: one row of work a region, so that one worker of all does it.

What has changed is enqueued, and is then looked at by its own handler, which would have looked by itself later. So a watcher
that dies, or a change that nobody tells of, costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import deploy
from archelon_core.database import Database
from archelon_core.queue import Handler, Item, Progress, Retry, Topic, Wait

from ..core.resources import Objects
from ..platforms.interface import Change, Watcher

TOPIC: Final = "deploy.watch"


@dataclass(frozen=True)
class Watching(Handler[str, None]):
    """The handler; a row's key is the region.

    Args:
        watchers: by region.
    """

    database: Database
    objects: Objects
    watchers: Mapping[str, Watcher]

    def load(self, connection: sa.Connection, item: Item) -> str | None:
        """The region; None where it is not configured any more."""
        return item.key if item.key in self.watchers else None

    def step(self, wanted: str) -> Progress[None]:
        """Let the watcher tell; what it tells is enqueued at once."""
        return Wait(self.watchers[wanted].follow(self.changed))

    def changed(self, change: Change) -> None:
        """Enqueue the work on what has changed, if it is somebody's."""
        path = deploy.STACK.location + change.id if change.kind == "stack" else deploy.application_path(change.id)
        with self.database.write() as connection:
            present = self.objects.find(connection, path)
            if present is not None:
                self.objects.look(connection, present)


def topic(watching: Watching) -> Topic[Any, Any]:
    """The watchers' topic."""
    return Topic(TOPIC, watching, timeout=30.0, retry=Retry.for_ever(0.5, 10.0))
