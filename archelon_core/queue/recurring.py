"""Recurring work: ticks, scrapes, sweeps. Each is one row, so one of all workers does it, and another one after a crash."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from .progress import Progress, Wait
from .queue import WorkQueue
from .topic import Handler, Item, Retry, Topic

#: The topic of `retention`; seed it with any key.
RETENTION: Final = "work.retention"

_BATCH: Final = 1000
_DAY: Final = 86400.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Tick(Handler[str, Any]):
    action: Callable[[], float]

    def load(self, connection: sa.Connection, item: Item) -> str:
        return item.key

    def step(self, wanted: str) -> Progress[Any]:
        return Wait(self.action())


def recurring(name: str, action: Callable[[], float], *, timeout: float = 8.0) -> Topic[Any, Any]:
    """A topic that calls `action` repeatedly; start it with `WorkQueue.seed(connection, name, key)`.

    Args:
        name: of the topic.
        action: runs once, and returns the seconds until the next time. An exception causes a retry after a pause.
        timeout: seconds after which a call is overdue.
    """
    # Never given up, since there is no owner to notify: it fails loudly, at most once a minute.
    return Topic(name, _Tick(action), timeout=timeout, retry=Retry.forever())


def retention(
    queue: WorkQueue, *, done: float = _DAY, dead: float = 30 * _DAY, every: float = 600.0
) -> Topic[Any, Any]:
    """The topic `RETENTION`, which removes rows that ended long ago.

    Args:
        queue: the queue to sweep.
        done: seconds to keep done rows.
        dead: seconds to keep rows that were given up.
        every: seconds between two sweeps.
    """

    def sweep() -> float:
        removed = queue.sweep(done=done, dead=dead, limit=_BATCH)
        return 0.0 if removed == _BATCH else every

    return recurring(RETENTION, sweep)
