"""The queue's interface for the rest of the code: enqueue work inside the caller's transaction, and query the backlog.

An order and its work row are one transaction, so neither exists without the other. There is one row for a (topic, key), however
often it is enqueued: enqueueing says "reconcile this", and the handler finds out what to do by comparing. Decided against: a
message for each event (their order would matter, and a lost one could not be recovered).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ..database import Database
from ..statements import Statement
from .pipes import Notify
from .table import work
from .topic import Priority

#: Seconds since the epoch.
Clock = Callable[[], float]

#: PostgreSQL's NOTIFY channel; the payload is the topic.
CHANNEL: Final = "archelon_work"


@dataclasses.dataclass(frozen=True, slots=True)
class Backlog:
    """The amount of work of one topic."""

    topic: str
    due: int
    """Ready to start."""
    waiting: int
    """Due at a later time."""
    running: int
    """Under a lease."""
    done: int
    dead: int
    lag: float
    """Seconds that the oldest due row has waited; 0 without one."""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkState:
    """One row, for people and tests. Times are seconds since the epoch."""

    due: float | None
    lease_owner: str | None
    lease_end: float | None
    token: int
    generation: int
    attempt: int
    outcome: str | None
    """"done", "dead", or None while there is work to do."""
    reason: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """A row that a worker has."""

    owner: str
    """The worker; see `owners`."""
    topic: str
    key: str
    end: float
    """Seconds since the epoch."""
    attempt: int


#: Distance between the places of a tenant's rows. Places begin at a time, and grow slower than time does.
STRIDE: Final = 0.01


def _rank() -> sa.ColumnElement[Any]:
    """The place in line: each lookup reads one entry of an index, so a tenant's thousandth row costs as much as its first."""
    line = work.alias("line")
    waits = sa.and_(
        line.c.priority == sa.bindparam("priority"),
        line.c.lease_end.is_(None),
        line.c.due.is_not(None),
        line.c.rank.is_not(None),
    )
    place = sa.select(line.c.rank).where(waits).limit(1)
    own_last = place.where(line.c.tenant == sa.bindparam("tenant")).order_by(line.c.rank.desc()).scalar_subquery()
    first = place.order_by(line.c.rank, line.c.due).scalar_subquery()
    # psycopg leaves the type of a None open.
    start = sa.cast(sa.bindparam("start"), sa.Double)
    return sa.case((start.is_not(None), sa.func.coalesce(own_last + STRIDE, first, start)))


def _upsert(insert: Any, *, rearm: bool) -> Any:
    new = insert(work).values(
        topic=sa.bindparam("topic"),
        key=sa.bindparam("key"),
        tenant=sa.bindparam("tenant"),
        request_id=sa.bindparam("request_id"),
        priority=sa.bindparam("priority"),
        due=sa.bindparam("due"),
        rank=_rank(),
        generation=1,
        token=sa.bindparam("first_token"),
        attempt=0,
    )
    if not rearm:
        return new.on_conflict_do_nothing(index_elements=["topic", "key"])
    given = new.excluded
    over = work.c.outcome.is_not(None)
    return new.on_conflict_do_update(
        index_elements=["topic", "key"],
        set_={
            "tenant": sa.func.coalesce(given.tenant, work.c.tenant),
            "request_id": sa.func.coalesce(given.request_id, work.c.request_id),
            "priority": sa.case((over | (given.priority < work.c.priority), given.priority), else_=work.c.priority),
            "due": sa.case((work.c.due < given.due, work.c.due), else_=given.due),
            "rank": sa.case((work.c.due < given.due, work.c.rank), else_=given.rank),
            "generation": work.c.generation + 1,
            "attempt": sa.case((over, 0), else_=work.c.attempt),
            "outcome": None,
            "ended": None,
            "reason": None,
        },
    )


def _notifying(upsert: Any) -> Any:
    # In one statement: a separate NOTIFY would be one more round trip in every order.
    written = upsert.returning(work.c.topic).cte("written")
    return sa.select(sa.func.pg_notify(CHANNEL, written.c.topic))


def _statement(*, rearm: bool) -> Statement:
    return Statement(
        lambda dialect: (
            _upsert(sqlite.insert, rearm=rearm)
            if dialect == "sqlite"
            else _notifying(_upsert(postgresql.insert, rearm=rearm))
        )
    )


_ENQUEUE: Final = _statement(rearm=True)
_SEED: Final = _statement(rearm=False)
_NOTIFY: Final = Statement(sa.select(sa.func.pg_notify(CHANNEL, sa.bindparam("topic", type_=sa.String))))


_REMOVE: Final = Statement(
    sa.delete(work).where(
        work.c.topic == sa.bindparam("topic"), work.c.key == sa.bindparam("key"), work.c.lease_end.is_(None)
    )
)


class WorkQueue:
    """The queue in one database. Threads may share one.

    Args:
        database: has the `work` table, created by `occi_service.registry.schema.upgrade`.
        clock: seconds since the epoch. Clock differences between machines cost time, never correctness.
    """

    def __init__(self, database: Database, *, clock: Clock = time.time) -> None:
        self.database = database
        self.clock = clock

    def enqueue(
        self,
        connection: sa.Connection,
        topic: str,
        key: str,
        *,
        tenant: str | None = None,
        request_id: str | None = None,
        after: float = 0.0,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Enqueue work. Takes effect when the caller's transaction commits.

        An existing row is rearmed: due at the sooner of its time and this, even while a step runs (the next step then follows
        it), and with attempts reset if it had ended. Write your own rows before: see `Handler`.

        Args:
            connection: inside `Database.write()`.
            topic: a topic's name.
            key: the object to reconcile, up to 255 characters; unique within the topic, over all tenants.
            tenant: its owner; None for the system's own work. A row keeps the former one if None is given. Tenants with rows
                that are due take turns, however many rows each has.
            request_id: id of the request that caused it, for logs; kept like `tenant`.
            after: seconds from now, 0 or more.
            priority: an armed row keeps the more urgent of its own and this.

        Raises:
            ValueError: a value is empty, too long, or negative.
        """
        self._write(_ENQUEUE, connection, topic, key, tenant, request_id, after, priority)

    def seed(
        self,
        connection: sa.Connection,
        topic: str,
        key: str,
        *,
        tenant: str | None = None,
        after: float = 0.0,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Start recurring work once: like `enqueue`, but an existing row is not changed.

        Every process may seed at its start; the tick's own `Wait` then sets the interval, which a restart does not disturb.
        """
        self._write(_SEED, connection, topic, key, tenant, None, after, priority)

    def _write(
        self,
        statement: Statement,
        connection: sa.Connection,
        topic: str,
        key: str,
        tenant: str | None,
        request_id: str | None,
        after: float,
        priority: Priority,
    ) -> None:
        for name, value, limit in (
            ("topic", topic, 64),
            ("key", key, 255),
            ("tenant", tenant, 255),
            ("request_id", request_id, 255),
        ):
            if value is not None and not 0 < len(value) <= limit:
                raise ValueError(f"work {name} has {len(value)} characters; it takes 1 to {limit}")
        if not after >= 0:
            raise ValueError(f"work {topic} cannot start {after} seconds from now; expected 0 or more")
        now = self.clock()
        statement.run(
            connection,
            {
                "topic": topic,
                "key": key,
                "tenant": tenant,
                "request_id": request_id,
                "priority": int(priority),
                "due": now + after,
                "start": now if tenant is not None and after == 0 else None,
                "first_token": int(now * 1_000_000),
            },
        )
        if self.database.dialect == "sqlite":
            self.notify(connection, topic)

    def notify(self, connection: sa.Connection, topic: str) -> None:
        """Wake idle workers once the caller's transaction commits."""
        if self.database.dialect == "sqlite":
            self.database.after_commit(connection, Notify(str(self.database.url.database)))
        else:
            _NOTIFY.run(connection, {"topic": topic})

    def remove(self, connection: sa.Connection, topic: str, key: str) -> None:
        """Remove a row whose work is done, unless a worker has it, which then finds nothing to do.

        Args:
            connection: inside `Database.write()`, after the caller's own rows.
        """
        _REMOVE.run(connection, {"topic": topic, "key": key})

    def state(self, topic: str, key: str) -> WorkState | None:
        """The row of one item; None if there is none."""
        columns = [work.c[field.name] for field in dataclasses.fields(WorkState)]
        with self.database.read() as connection:
            row = connection.execute(sa.select(*columns).where(work.c.topic == topic, work.c.key == key)).one_or_none()
        return None if row is None else WorkState(*row)

    def backlog(self) -> Sequence[Backlog]:
        """The backlog of each topic that has rows, ordered by name. Reads the whole table."""
        now = self.clock()
        armed = work.c.lease_end.is_(None) & work.c.due.is_not(None)
        due = armed & (work.c.due <= now)

        def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
            return sa.func.count(sa.case((condition, 1)))

        counted = sa.select(
            work.c.topic,
            count(due),
            count(armed & (work.c.due > now)),
            count(work.c.lease_end.is_not(None)),
            count(work.c.outcome == "done"),
            count(work.c.outcome == "dead"),
            sa.func.coalesce(now - sa.func.min(sa.case((due, work.c.due))), 0.0),
        )
        with self.database.read() as connection:
            rows = connection.execute(counted.group_by(work.c.topic).order_by(work.c.topic)).all()
        return [Backlog(*row) for row in rows]

    def leases(self, *, limit: int = 1000) -> Sequence[Lease]:
        """The rows under a lease, ordered by owner; those that ended soonest first if there are more than `limit`."""
        columns = [work.c.lease_owner, work.c.topic, work.c.key, work.c.lease_end, work.c.attempt]
        held = sa.select(*columns).where(work.c.lease_end.is_not(None)).order_by(work.c.lease_end).limit(limit)
        with self.database.read() as connection:
            return sorted([Lease(*row) for row in connection.execute(held)], key=lambda lease: (lease.owner, lease.end))

    def sweep(self, *, done: float, dead: float, limit: int = 1000) -> int:
        """Remove rows that ended long ago.

        Args:
            done: seconds to keep done rows.
            dead: seconds to keep rows that were given up.
            limit: maximum number to remove at once, which keeps the transaction short.

        Returns:
            The number of removed rows; `limit` means that there may be more.
        """
        now = self.clock()
        old = (
            sa.select(work.c.topic, work.c.key)
            .where(
                work.c.ended < now - min(done, dead),
                work.c.ended < sa.case((work.c.outcome == "done", now - done), else_=now - dead),
            )
            .order_by(work.c.ended)
            .limit(limit)
        )
        with self.database.write() as connection:
            rows = connection.execute(old.with_for_update(skip_locked=True)).all()
            if rows:
                connection.execute(
                    sa.delete(work).where(
                        work.c.topic == sa.bindparam("old_topic"), work.c.key == sa.bindparam("old_key")
                    ),
                    [{"old_topic": topic, "old_key": key} for topic, key in rows],
                )
        return len(rows)
