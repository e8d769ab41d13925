"""The work queue: everything that Archelon does later, again, or somewhere else.

An order writes its own row and enqueues work in one transaction. A worker, in this process or on another machine, claims the
row under a lease, asks the topic's handler to compare what is wanted with what was observed, does one idempotent step, and
writes progress only while it holds the newest token. When it dies, another takes over within one lease. The queue says *look at
this*, never *do that*: enqueueing twice is one look, and enqueueing during a step is one more look after it.

```python
class Boil(work.Handler):
    def load(self, connection, item):
        return connection.execute(kettle_by_id, {"id": item.key}).one_or_none()

    def step(self, kettle):
        if kettle.observed >= kettle.wanted:
            return work.Done()
        return work.Advance(kettle.observed + 1)

    def save(self, connection, item, observed): ...
    def gave_up(self, connection, item, reason): ...


queue = work.WorkQueue(database)
with database.write() as connection:
    connection.execute(insert_kettle)
    queue.enqueue(connection, "kettle", kettle_id, tenant=tenant, request_id=request_id)

with work.Worker(queue, [work.Topic("kettle", Boil())]):
    ...
```

What recurs (ticks, scrapes, sweeps) is a row whose step returns `Wait` every time (`recurring`), started with
`WorkQueue.seed`. A test calls `Worker.run_once` until it is False, and needs no thread. docs/adr/002-work-queue.md says why this
is not a product of others.
"""

from .leases import Claim
from .observer import LogObserver, Observer, Outcome
from .progress import Advance, Done, Fail, Progress, Wait
from .queue import Backlog, Clock, State, WorkQueue
from .recurring import RETENTION, recurring, retention
from .topic import Handler, Item, Priority, Retry, Token, Topic, describe
from .worker import Worker

__all__ = [
    "RETENTION",
    "Advance",
    "Backlog",
    "Claim",
    "Clock",
    "Done",
    "Fail",
    "Handler",
    "Item",
    "LogObserver",
    "Observer",
    "Outcome",
    "Priority",
    "Progress",
    "Retry",
    "State",
    "Token",
    "Topic",
    "Wait",
    "WorkQueue",
    "Worker",
    "describe",
    "recurring",
    "retention",
]
