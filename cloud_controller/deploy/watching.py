"""Following the regions whose platforms can be followed: one work item per region, so that one worker does it.

Changed objects are enqueued early; their handlers would have polled them later anyway. So a dead watcher or a missed change costs
only time.
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
    """The handler; a row's key is the region, as are the keys of `watchers`."""

    database: Database
    objects: Objects
    watchers: Mapping[str, Watcher]

    def load(self, connection: sa.Connection, item: Item) -> str | None:
        """Return the region; None if it is no longer configured."""
        return item.key if item.key in self.watchers else None

    def step(self, wanted: str) -> Progress[None]:
        """Run the watcher; each change that it reports is enqueued at once."""
        return Wait(self.watchers[wanted].follow(self.changed))

    def changed(self, change: Change) -> None:
        """Enqueue the work on the changed object, if it has a row."""
        kinds = (deploy.STACK,) if change.kind == "stack" else (deploy.APPLICATION, deploy.APP)
        with self.database.write() as connection:
            for kind in kinds:
                present = self.objects.find(connection, kind.location + change.id)
                if present is not None:
                    self.objects.enqueue(connection, present)


def topic(watching: Watching) -> Topic[Any, Any]:
    """Return the watchers' topic."""
    return Topic(TOPIC, watching, timeout=30.0, retry=Retry.forever(0.5, 10.0))
