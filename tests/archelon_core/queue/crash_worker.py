"""A worker process for the crash test: `python -m tests.archelon_core.queue.crash_worker URL OWNER LEASE LOG`.

Each step calls a receiver outside (a table that stands for another service, written in its own transaction) under the
idempotency key (key, degree), as a step calls a cloud. Every claim is one line in LOG. A line on standard output says that the
worker has started.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from archelon_core import queue
from archelon_core.database import Database

from .kettles import Kettles, metadata

effects = sa.Table(
    "effects",
    metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("degree", sa.Integer, primary_key=True),
    sa.Column("calls", sa.Integer, nullable=False),
)


class Outward(Kettles):
    """Heats a kettle by calls to the receiver."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        insert = sqlite.insert if database.dialect == "sqlite" else postgresql.insert
        call = insert(effects).values(key=sa.bindparam("key"), degree=sa.bindparam("degree"), calls=1)
        self._call = call.on_conflict_do_update(index_elements=["key", "degree"], set_={"calls": effects.c.calls + 1})

    def load(self, connection: sa.Connection, item: queue.Item) -> tuple[str, int, int] | None:  # type: ignore[override]
        loaded = super().load(connection, item)
        return None if loaded is None else (item.key, *loaded)

    def step(self, loaded: tuple[str, int, int]) -> queue.Progress[int]:  # type: ignore[override]
        key, degrees, observed = loaded
        if observed == degrees:
            return queue.Done()
        with self._database.write() as connection:
            connection.execute(self._call, {"key": key, "degree": observed + 1})
        return queue.Advance(observed + 1)


class ClaimLog(queue.LogObserver):
    """One line per claim, written at once, so that it survives the process."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def claimed(self, claim: queue.Claim) -> None:
        line = f"{claim.item.key} {claim.item.token} {int(claim.takeover)} {time.time()}\n"
        os.write(self._file, line.encode())


def main() -> None:
    url, owner, lease, log = sys.argv[1:]
    database = Database(url, pool_size=10)
    topic = queue.Topic("kettle", Outward(database), timeout=float(lease) * 0.8)
    worker = queue.Worker(
        queue.WorkQueue(database), [topic], owner=owner, lease=float(lease), observer=ClaimLog(log), threads=4
    )
    signals = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with worker:
        print("at work", flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
