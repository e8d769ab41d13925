"""A worker's operations on rows: claim under a lease, renew, and settle while the token is still the newest.

Every write of a handler goes through `keep`, `rearm` or `end`: they run the handler's write and then compare the token, in one
transaction, so a worker that was paused or cut off while another took over writes nothing. Correctness depends on the token
alone; clocks and lease ends only determine how soon another worker tries.

The token is compared last: an order writes its own row before the work row, and two transactions that lock the same rows in
opposite orders would deadlock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from ..statements import Statement
from .queue import WorkQueue
from .table import work
from .topic import Item, Priority, Token

#: The handler's write in a settling transaction.
Write = Callable[[sa.Connection], None]

#: Fraction of the lease for which the row is held; the rest is for other workers to notice and take over.
_HELD: Final = 0.9


class LeaseLostError(Exception):
    """Another worker has claimed the row; nothing was written."""


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A row that this worker may work on until `lease_end`."""

    item: Item
    lease_end: float
    lag: float
    """Seconds between the time when it was due and the claim."""
    takeover: bool
    """Whether the previous worker did not release its lease."""


def _among(topics: Sequence[str]) -> sa.ColumnElement[bool]:
    # An expression, or SQLite would read all rows of the topics, ended ones included, by the primary key, and sort them.
    return work.c.topic.concat(sa.literal_column("''")).in_(
        [sa.bindparam(f"topic_{place}", name) for place, name in enumerate(topics)]
    )


def _candidates(topics: Sequence[str], *, line_first: bool) -> list[sa.Select[Any]]:
    """Queries for one row each, in order of preference; each reads one range of one index, however full the table is.

    Expired leases come first: their work has begun, and would otherwise wait behind the whole backlog. Within a priority, either
    the rows that are due by time come first, or those in line: alternating, a worker delays neither by more than a factor of two.
    """
    now: sa.BindParameter[float] = sa.bindparam("now")
    found = sa.select(work.c.topic, work.c.key, work.c.token, work.c.due, work.c.lease_end)
    found = found.where(_among(topics)).limit(1)
    ended = found.where(work.c.lease_end <= now).order_by(work.c.lease_end)
    free = found.where(work.c.lease_end.is_(None), work.c.due <= now)
    timed = free.where(work.c.rank.is_(None)).order_by(work.c.due)
    lined = free.where(work.c.rank.is_not(None)).order_by(work.c.rank, work.c.due)
    both = (lined, timed) if line_first else (timed, lined)
    # A literal priority, so that the plan can use it.
    return [ended, *[each.where(work.c.priority == _literal(one)) for one in Priority for each in both]]


def _literal(priority: Priority) -> sa.ColumnElement[int]:
    return sa.literal_column(str(int(priority)))


_CLAIMED: Final[dict[str, Any]] = {
    "due": None,
    "rank": None,
    "lease_owner": sa.bindparam("owner"),
    "lease_end": sa.bindparam("lease_end"),
    "token": work.c.token + 1,
    # A step that kills its worker raises no exception: a takeover counts as a failure too, or it would repeat forever.
    "attempt": sa.case((work.c.lease_end.is_not(None), work.c.attempt + 1), else_=work.c.attempt),
}
_RETURNED: Final = (
    work.c.topic,
    work.c.key,
    work.c.tenant,
    work.c.request_id,
    work.c.token,
    work.c.generation,
    work.c.attempt,
    work.c.reason,
)


def _claim_postgresql(topics: Sequence[str], *, line_first: bool) -> Any:
    """One statement, one round trip: each candidate is queried only if those before it found nothing."""
    tried: list[Any] = []
    for place, candidate in enumerate(_candidates(topics, line_first=line_first)):
        for former in tried:
            candidate = candidate.where(~sa.exists(sa.select(former.c.key)))
        tried.append(candidate.with_for_update(skip_locked=True).cte(f"candidate_{place}"))
    found = sa.union_all(*[sa.select(former) for former in tried]).cte("found")
    return (
        sa.update(work)
        .where(work.c.topic == found.c.topic, work.c.key == found.c.key)
        .values(_CLAIMED)
        .returning(*_RETURNED, found.c.due, found.c.lease_end)
    )


def _find_sqlite(topics: Sequence[str], *, line_first: bool) -> Any:
    placed = []
    for place, candidate in enumerate(_candidates(topics, line_first=line_first)):
        row = candidate.subquery()
        placed.append(sa.select(sa.literal_column(str(place)).label("place"), row))
    found = sa.union_all(*placed).subquery()
    return sa.select(found).order_by(found.c.place).limit(1)


_TAKE_SQLITE: Final = Statement(
    sa.update(work)
    .where(
        work.c.topic == sa.bindparam("found_topic"),
        work.c.key == sa.bindparam("found_key"),
        work.c.token == sa.bindparam("found_token"),
        # Same token and no lease: it was settled meanwhile, and may have ended.
        sa.or_(
            work.c.lease_end <= sa.bindparam("now"), work.c.lease_end.is_(None) & (work.c.due <= sa.bindparam("now"))
        ),
    )
    .values(_CLAIMED)
    .returning(*_RETURNED)
)

_MINE: Final = sa.and_(
    work.c.topic == sa.bindparam("my_topic"),
    work.c.key == sa.bindparam("my_key"),
    work.c.token == sa.bindparam("my_token"),
    work.c.lease_end.is_not(None),
)
_RENEW: Final = Statement(sa.update(work).where(_MINE).values(lease_end=sa.bindparam("end")))
_KEEP: Final = Statement(
    sa.update(work)
    .where(_MINE)
    .values(
        lease_end=sa.bindparam("end"),
        attempt=0,
        # The next load sees everything enqueued up to here.
        due=sa.case((work.c.due <= sa.bindparam("now"), None), else_=work.c.due),
        rank=sa.case((work.c.due <= sa.bindparam("now"), None), else_=work.c.rank),
    )
    .returning(work.c.generation)
)
_FREE: Final[dict[str, Any]] = {"lease_owner": None, "lease_end": None}
_REARM: Final = Statement(
    sa.update(work)
    .where(_MINE)
    .values(
        **_FREE,
        attempt=sa.bindparam("failures"),
        reason=sa.bindparam("why"),
        due=sa.case((work.c.due < sa.bindparam("next"), work.c.due), else_=sa.bindparam("next")),
        rank=sa.case((work.c.due < sa.bindparam("next"), work.c.rank)),
    )
)
_END: Final = Statement(
    sa.update(work)
    .where(_MINE)
    .values(
        **_FREE,
        attempt=0,
        # Work enqueued during the step counts as enqueued right after it.
        outcome=sa.case((work.c.due.is_(None), sa.bindparam("how"))),
        ended=sa.case((work.c.due.is_(None), sa.bindparam("now"))),
        reason=sa.case((work.c.due.is_(None), sa.bindparam("why"))),
    )
)


def _next_ready(topics: Sequence[str]) -> Any:
    """The soonest time of each index range (two per priority), up to now and after it.

    The two are queried separately: a row that is ready, and perhaps being claimed just now, would otherwise hide the next time.
    """
    mine = _among(topics)
    now: sa.BindParameter[float] = sa.bindparam("now")

    def soonest(time: sa.Column[Any], *conditions: sa.ColumnElement[bool], by: Sequence[sa.Column[Any]] = ()) -> Any:
        row = sa.select(time).where(mine, *conditions).order_by(*by or (time,)).limit(1).subquery()
        return sa.select(row.c[0].label("time"))

    def over_ranges(of: Callable[[sa.Column[Any]], sa.ColumnElement[bool]]) -> Any:
        ranges = [soonest(work.c.lease_end, of(work.c.lease_end))]
        for priority in Priority:
            free = (work.c.lease_end.is_(None), work.c.priority == _literal(priority), of(work.c.due))
            ranges.append(soonest(work.c.due, *free, work.c.rank.is_(None)))
            # The first in line: all are due, except by the clock of a machine that is late.
            ranges.append(soonest(work.c.due, *free, work.c.rank.is_not(None), by=(work.c.rank, work.c.due)))
        times = sa.union_all(*ranges).subquery()
        return sa.select(sa.func.min(times.c.time)).scalar_subquery()

    return sa.select(over_ranges(lambda time: time <= now), over_ranges(lambda time: time > now))


def _holders(topics: Sequence[str]) -> Any:
    held = sa.select(work.c.topic, work.c.key, work.c.token, work.c.lease_owner)
    return held.where(_among(topics), work.c.lease_end > sa.bindparam("now"))


class Leases:
    """One worker's leases. Its threads share it.

    Args:
        queue: the queue.
        topics: names of the worker's topics.
        owner: names the worker in the rows; unique.
        lease: seconds within which another worker takes over.
    """

    def __init__(self, queue: WorkQueue, topics: Sequence[str], *, owner: str, lease: float) -> None:
        self._queue = queue
        self._database = queue.database
        self._clock = queue.clock
        self._owner = owner
        self._held = lease * _HELD
        sqlite = self._database.dialect == "sqlite"
        self._find = self._claim_sqlite if sqlite else self._claim_postgresql
        candidate = _find_sqlite if sqlite else _claim_postgresql
        statements = [Statement(candidate(topics, line_first=line_first)) for line_first in (False, True)]
        # Shared by threads, which must only not claim in the same order all the time.
        self._candidates = itertools.cycle(statements)
        self._next = Statement(_next_ready(topics))
        self._holders = Statement(_holders(topics))

    def claim(self) -> Claim | None:
        """Claim the most urgent row that is ready; None if there is none."""
        now = self._clock()
        row = self._find({"now": now, "owner": self._owner, "lease_end": now + self._held})
        if row is None:
            return None
        topic, key, tenant, request_id, token, generation, attempt, reason, due, former_end = row
        takeover = former_end is not None
        lag = max(0.0, now - (former_end if takeover else due))
        item = Item(
            topic=topic,
            key=key,
            tenant=tenant,
            request_id=request_id,
            token=Token(token),
            generation=generation,
            attempt=attempt,
            reason=reason,
            deadline=now + self._held,
        )
        return Claim(item, lease_end=now + self._held, lag=lag, takeover=takeover)

    # Both claim in autocommit mode: a statement is a transaction, and BEGIN and COMMIT would cost two more round trips.
    def _claim_postgresql(self, values: dict[str, Any]) -> Any:
        with self._database.single() as connection:
            return next(self._candidates).row(connection, values)

    def _claim_sqlite(self, values: dict[str, Any]) -> Any:
        # SQLite's RETURNING has new values only, so the former ones are read before; the token shows that they still held.
        with self._database.single() as connection:
            while True:
                found = next(self._candidates).row(connection, values)
                if found is None:
                    return None
                place = {"found_topic": found.topic, "found_key": found.key, "found_token": found.token}
                taken = _TAKE_SQLITE.row(connection, {**values, **place})
                if taken is not None:
                    return (*taken, found.due, found.lease_end)

    def reading(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A connection for a handler's `load`."""
        return self._database.read()

    def next_ready(self) -> tuple[bool, float | None]:
        """Whether a row of this worker's topics can be claimed now, and the time of the next one after now, if any."""
        with self._database.read() as connection:
            ready, later = self._next.row(connection, {"now": self._clock()})
        return ready is not None, later

    def renew(self, item: Item) -> float:
        """Extend the lease; returns its new end. Raises LeaseLostError: another worker has it."""
        end = self._clock() + self._held
        with self._database.single() as connection:
            if _RENEW.run(connection, {**_mine(item), "end": end}) != 1:
                raise LeaseLostError
        return end

    def end_dead(self, is_dead: Callable[[str], bool]) -> int:
        """End the leases of workers that are certainly dead, so that they are taken over now; returns their number.

        Args:
            is_dead: whether an owner is dead.
        """
        now = self._clock()
        with self._database.read() as connection:
            held = self._holders.rows(connection, {"now": now})
        dead = {owner for owner in {row.lease_owner for row in held} if is_dead(owner)}
        ended = 0
        for row in held:
            if row.lease_owner in dead:
                place = {"my_topic": row.topic, "my_key": row.key, "my_token": row.token}
                # A transaction each: several rows in one could deadlock with a transaction that locks them in another order.
                with self._database.single() as connection:
                    ended += _RENEW.run(connection, {**place, "end": now})
        return ended

    def keep(self, item: Item, write: Write | None) -> tuple[int, float]:
        """Write, and hold the row for the next step; returns its generation and the new end of the lease.

        Raises:
            LeaseLostError: another worker has the row; nothing was written.
        """
        with self._database.write() if write else self._database.single() as connection:
            if write:
                write(connection)
            now = self._clock()
            values = {**_mine(item), "now": now, "end": now + self._held}
            generation: int | None = _KEEP.value(connection, values)
            if generation is None:
                raise LeaseLostError
        return generation, now + self._held

    def rearm(
        self,
        item: Item,
        due: float,
        *,
        write: Write | None = None,
        failures: int = 0,
        reason: str | None = None,
        notify: bool = False,
    ) -> None:
        """Write, and release the row, due again at `due` or at the time it was enqueued for meanwhile.

        Args:
            item: the claimed item.
            due: seconds since the epoch.
            write: the handler's write.
            failures: consecutive failures, including this one.
            reason: of the failure.
            notify: wake other workers, since this one does not continue with it.

        Raises:
            LeaseLostError: another worker has the row; nothing was written.
        """
        values = {**_mine(item), "next": due, "failures": failures, "why": reason}
        with self._database.write() if write or notify else self._database.single() as connection:
            self._settle(connection, _REARM, values, write)
            if notify:
                self._queue.notify(connection, item.topic)

    def end(self, item: Item, outcome: str, *, write: Write | None = None, reason: str | None = None) -> None:
        """Write, and end the row with its outcome, unless it was enqueued meanwhile.

        Raises:
            LeaseLostError: another worker has the row; nothing was written.
        """
        values = {**_mine(item), "how": outcome, "why": reason, "now": self._clock()}
        with self._database.write() if write else self._database.single() as connection:
            self._settle(connection, _END, values, write)

    def _settle(
        self, connection: sa.Connection, statement: Statement, values: dict[str, Any], write: Write | None
    ) -> None:
        if write is not None:
            write(connection)
        if statement.run(connection, values) != 1:
            raise LeaseLostError


def _mine(item: Item) -> dict[str, Any]:
    return {"my_topic": item.topic, "my_key": item.key, "my_token": item.token}
