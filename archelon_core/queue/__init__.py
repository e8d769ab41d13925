"""The work queue: for everything that Archelon does later, repeatedly, or in another process.

An order writes its own row and enqueues work in one transaction. A worker, in this process or on another machine, claims the row
under a lease, calls the topic's handler to compare wanted and observed state, does one idempotent step, and writes progress only
while it holds the newest token. When it dies, another takes over within one lease. The queue is level-triggered: it says
*reconcile this*, never *do that*. Enqueueing twice causes one reconciliation; enqueueing during a step causes one more after it.

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

Recurring work (ticks, scrapes, sweeps) is a row whose step returns `Wait` every time (`recurring`), started with
`WorkQueue.seed`. A test calls `Worker.run_once` until it returns False, and needs no thread. docs/adr/002-work-queue.md says why
this is not an existing product.
"""

from .leases import Claim
from .observer import LogObserver, Observer, Outcome
from .progress import Advance, Done, Fail, Progress, Wait
from .queue import Backlog, Clock, Lease, WorkQueue, WorkState
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
    "Lease",
    "LogObserver",
    "Observer",
    "Outcome",
    "Priority",
    "Progress",
    "Retry",
    "Token",
    "Topic",
    "Wait",
    "WorkQueue",
    "WorkState",
    "Worker",
    "describe",
    "recurring",
    "retention",
]
