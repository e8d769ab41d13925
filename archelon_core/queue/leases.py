"""What a worker does with rows: claim under a lease, renew, and settle while the token is still the newest.

Every write of a handler goes through `keep`, `rearm` or `end`: they run the handler's write and then compare the token, in one
transaction, so a worker that was paused or cut off while another took over writes nothing. Correctness stands on the token
alone; clocks and lease ends only decide how soon somebody else tries.

The token is compared last, not first: whoever orders work writes its own row before the work row, and two transactions that lock
the same rows in opposite orders would wait for one another.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from .queue import CHANNEL, WorkQueue
from .table import work
from .topic import Item, Priority, Token

#: The handler's part of a settling transaction.
Write = Callable[[sa.Connection], None]

#: How much of a lease the row is held for. The rest is left to those who take over, to notice and to claim.
_HELD: Final = 0.9


class LeaseLostError(Exception):
    """Another worker has claimed the row since; nothing was written."""


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A row that this worker may work on until `lease_end`."""

    item: Item
    lease_end: float
    lag: float
    """Seconds between the time when it could start and the claim."""
    takeover: bool
    """The one before did not give its lease back."""


def _candidates() -> list[sa.Select[Any]]:
    """One row each, in the order in which a claim prefers them; each reads one range of one index, however full the table is.

    Leases that ended come first: their work has begun, and would else wait behind the whole backlog for its takeover.
    """
    now: sa.BindParameter[float] = sa.bindparam("now")
    found = sa.select(work.c.topic, work.c.key, work.c.token, work.c.due, work.c.lease_end)
    found = found.where(work.c.topic.in_(sa.bindparam("topics", expanding=True))).limit(1)
    ended = found.where(work.c.lease_end <= now).order_by(work.c.lease_end)
    free = found.where(work.c.lease_end.is_(None), work.c.due <= now).order_by(work.c.due)
    # A literal priority, for a plan that knows it.
    return [ended, *[free.where(work.c.priority == sa.literal_column(str(int(one)))) for one in Priority]]


_CLAIMED: Final[dict[str, Any]] = {
    "due": None,
    "lease_owner": sa.bindparam("owner"),
    "lease_end": sa.bindparam("lease_end"),
    "token": work.c.token + 1,
    # A step that kills its worker raises no exception: being taken over counts as a failure too, or it would go round for ever.
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


def _claim_postgresql() -> Any:
    """One statement, one round trip: each candidate is looked for only when those before it gave nothing."""
    tried: list[Any] = []
    for place, candidate in enumerate(_candidates()):
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


def _find_sqlite() -> Any:
    placed = []
    for place, candidate in enumerate(_candidates()):
        row = candidate.subquery()
        placed.append(sa.select(sa.literal_column(str(place)).label("place"), row))
    found = sa.union_all(*placed).subquery()
    return sa.select(found).order_by(found.c.place).limit(1)


_CLAIM_POSTGRESQL: Final = _claim_postgresql()
_FIND_SQLITE: Final = _find_sqlite()
_TAKE_SQLITE: Final = (
    sa.update(work)
    .where(
        work.c.topic == sa.bindparam("found_topic"),
        work.c.key == sa.bindparam("found_key"),
        work.c.token == sa.bindparam("found_token"),
        # Same token and no lease: it was settled meanwhile, and may be at rest.
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
_RENEW: Final = sa.update(work).where(_MINE).values(lease_end=sa.bindparam("end"))
_HOLDERS: Final = sa.select(work.c.topic, work.c.key, work.c.token, work.c.lease_owner).where(
    work.c.topic.in_(sa.bindparam("topics", expanding=True)), work.c.lease_end > sa.bindparam("now")
)
_KEEP: Final = (
    sa.update(work)
    .where(_MINE)
    .values(
        lease_end=sa.bindparam("end"),
        attempt=0,
        # The next load sees whatever was ordered up to here.
        due=sa.case((work.c.due <= sa.bindparam("now"), None), else_=work.c.due),
    )
    .returning(work.c.generation)
)
_FREE: Final[dict[str, Any]] = {"lease_owner": None, "lease_end": None}
_REARM: Final = (
    sa.update(work)
    .where(_MINE)
    .values(
        **_FREE,
        attempt=sa.bindparam("failures"),
        reason=sa.bindparam("why"),
        due=sa.case((work.c.due < sa.bindparam("next"), work.c.due), else_=sa.bindparam("next")),
    )
)
_END: Final = (
    sa.update(work)
    .where(_MINE)
    .values(
        **_FREE,
        attempt=0,
        # An order that came during the step counts as if it came right after.
        outcome=sa.case((work.c.due.is_(None), sa.bindparam("how"))),
        ended=sa.case((work.c.due.is_(None), sa.bindparam("now"))),
        reason=sa.case((work.c.due.is_(None), sa.bindparam("why"))),
    )
)


def _next_ready() -> Any:
    """The soonest time of each index range (the priorities have a range each), up to now and after it.

    The two are asked for apart: a row that is ready, and perhaps being claimed in this moment, would else hide when the
    next one is.
    """
    mine = work.c.topic.in_(sa.bindparam("topics", expanding=True))
    now: sa.BindParameter[float] = sa.bindparam("now")

    def soonest(time: sa.Column[Any], *conditions: sa.ColumnElement[bool]) -> Any:
        row = sa.select(time).where(mine, *conditions).order_by(time).limit(1).subquery()
        return sa.select(row.c[0].label("time"))

    def over_ranges(of: Callable[[sa.Column[Any]], sa.ColumnElement[bool]]) -> Any:
        ranges = [soonest(work.c.lease_end, of(work.c.lease_end))]
        for priority in Priority:
            of_priority = work.c.priority == sa.literal_column(str(int(priority)))
            ranges.append(soonest(work.c.due, work.c.lease_end.is_(None), of_priority, of(work.c.due)))
        times = sa.union_all(*ranges).subquery()
        return sa.select(sa.func.min(times.c.time)).scalar_subquery()

    return sa.select(over_ranges(lambda time: time <= now), over_ranges(lambda time: time > now))


_NEXT: Final = _next_ready()


class Leases:
    """One worker's leases. Its threads share it.

    Args:
        queue: where the rows are.
        topics: the names of what this worker does.
        owner: names the worker in the rows, unique among all.
        lease: seconds within which another worker takes over.
    """

    def __init__(self, queue: WorkQueue, topics: Sequence[str], *, owner: str, lease: float) -> None:
        self._database = queue.database
        self._clock = queue.clock
        self._topics = list(topics)
        self._owner = owner
        self._held = lease * _HELD

    def claim(self) -> Claim | None:
        """Take the most urgent row that is ready; None when none is."""
        find = self._claim_sqlite if self._database.dialect == "sqlite" else self._claim_postgresql
        now = self._clock()
        row = find({"now": now, "topics": self._topics, "owner": self._owner, "lease_end": now + self._held})
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

    # Both claim in autocommit mode: a statement is a transaction, and BEGIN and COMMIT would be two more round trips.
    def _claim_postgresql(self, values: dict[str, Any]) -> Any:
        with self._database.read() as connection:
            return connection.execute(_CLAIM_POSTGRESQL, values).one_or_none()

    def _claim_sqlite(self, values: dict[str, Any]) -> Any:
        # SQLite's RETURNING gives new values only, so the former ones are read before; the token shows that they held.
        with self._database.write_lock(), self._database.read() as connection:
            while True:
                found = connection.execute(_FIND_SQLITE, values).one_or_none()
                if found is None:
                    return None
                place = {"found_topic": found.topic, "found_key": found.key, "found_token": found.token}
                taken = connection.execute(_TAKE_SQLITE, {**values, **place}).one_or_none()
                if taken is not None:
                    return (*taken, found.due, found.lease_end)

    def reading(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A connection for a handler's `load`."""
        return self._database.read()

    def next_ready(self) -> tuple[bool, float | None]:
        """Whether a row of this worker's topics can be claimed now, and when the next one can that cannot yet, if any."""
        with self._database.read() as connection:
            ready, later = connection.execute(_NEXT, {"topics": self._topics, "now": self._clock()}).one()
        return ready is not None, later

    def renew(self, item: Item) -> float:
        """Hold on; returns the new end of the lease.

        Raises:
            LeaseLostError: it has another owner.
        """
        end = self._clock() + self._held
        with self._database.write_lock(), self._database.read() as connection:
            if connection.execute(_RENEW, {**_mine(item), "end": end}).rowcount != 1:
                raise LeaseLostError
        return end

    def end_dead(self, is_dead: Callable[[str], bool]) -> int:
        """End the leases of workers that are certainly dead, so that they are taken over now; how many there were.

        Args:
            is_dead: tells it of an owner.
        """
        now = self._clock()
        with self._database.read() as connection:
            held = connection.execute(_HOLDERS, {"topics": self._topics, "now": now}).all()
        dead = {owner for owner in {row.lease_owner for row in held} if is_dead(owner)}
        ended = 0
        for row in held:
            if row.lease_owner in dead:
                place = {"my_topic": row.topic, "my_key": row.key, "my_token": row.token}
                # A transaction each: several rows in one could wait for who locks them in another order.
                with self._database.write_lock(), self._database.read() as connection:
                    ended += connection.execute(_RENEW, {**place, "end": now}).rowcount
        return ended

    def keep(self, item: Item, write: Write) -> tuple[int, float]:
        """Write, and hold the row for the next step; returns its generation and the new end of the lease.

        Raises:
            LeaseLostError: it has another owner; nothing was written.
        """
        with self._database.write() as connection:
            write(connection)
            now = self._clock()
            values = {**_mine(item), "now": now, "end": now + self._held}
            generation: int | None = connection.scalar(_KEEP, values)
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
        tell: bool = False,
    ) -> None:
        """Write, and give the row back, due again at `due` or when it was enqueued for meanwhile.

        Args:
            item: what was claimed.
            due: seconds since the epoch.
            write: the handler's part.
            failures: in a row, this one included.
            reason: of the failure.
            tell: wake the other workers, since this one will not go on with it.

        Raises:
            LeaseLostError: it has another owner; nothing was written.
        """
        values = {**_mine(item), "next": due, "failures": failures, "why": reason}
        with self._database.write() as connection:
            self._settle(connection, _REARM, values, write)
            if tell and self._database.dialect == "postgresql":
                connection.execute(sa.select(sa.func.pg_notify(CHANNEL, item.topic)))

    def end(self, item: Item, outcome: str, *, write: Write | None = None, reason: str | None = None) -> None:
        """Write, and let the row rest with its outcome, unless it was enqueued meanwhile.

        Raises:
            LeaseLostError: it has another owner; nothing was written.
        """
        values = {**_mine(item), "how": outcome, "why": reason, "now": self._clock()}
        with self._database.write() as connection:
            self._settle(connection, _END, values, write)

    def _settle(self, connection: sa.Connection, statement: Any, values: dict[str, Any], write: Write | None) -> None:
        if write is not None:
            write(connection)
        if connection.execute(statement, values).rowcount != 1:
            raise LeaseLostError


def _mine(item: Item) -> dict[str, Any]:
    return {"my_topic": item.topic, "my_key": item.key, "my_token": item.token}
