"""A small example for the queue's tests: kettles with a wanted and an observed temperature, and an effect for every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import sqlalchemy as sa

from archelon_core import queue as work
from archelon_core.database import Database

metadata = sa.MetaData()

kettles = sa.Table(
    "kettles",
    metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("observed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("message", sa.Text),
)

#: No uniqueness constraint: two writes of one step would show as two rows.
saves = sa.Table(
    "saves",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("observed", sa.Integer, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
)


class ManualClock:
    """A clock that only a test advances."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def heat(wanted: int, observed: int) -> work.Progress[int]:
    """One degree at a time."""
    if observed == wanted:
        return work.Done()
    return work.Advance(observed + (1 if wanted > observed else -1))


@dataclasses.dataclass
class Kettles:
    """A handler; `act` is its step, for tests to replace."""

    act: Callable[[int, int], work.Progress[int]] = heat

    def load(self, connection: sa.Connection, item: work.Item) -> tuple[int, int] | None:
        query = sa.select(kettles.c.wanted, kettles.c.observed).where(kettles.c.key == item.key)
        row = connection.execute(query).one_or_none()
        return None if row is None else (row.wanted, row.observed)

    def step(self, loaded: tuple[int, int]) -> work.Progress[int]:
        return self.act(*loaded)

    def save(self, connection: sa.Connection, item: work.Item, observed: int) -> None:
        connection.execute(sa.update(kettles).where(kettles.c.key == item.key).values(observed=observed))
        connection.execute(sa.insert(saves).values(key=item.key, observed=observed, token=item.token))

    def gave_up(self, connection: sa.Connection, item: work.Item, reason: str) -> None:
        connection.execute(sa.update(kettles).where(kettles.c.key == item.key).values(message=reason))


class Record:
    """An observer that records its events."""

    def __init__(self) -> None:
        self.claims: list[work.Claim] = []
        self.outcomes: list[tuple[str, work.Outcome]] = []
        self.errors: list[BaseException] = []
        self.overdue_items: list[work.Item] = []

    def claimed(self, claim: work.Claim) -> None:
        self.claims.append(claim)

    def settled(self, item: work.Item, outcome: work.Outcome, *, seconds: float, error: BaseException | None) -> None:
        self.outcomes.append((item.key, outcome))
        if error is not None:
            self.errors.append(error)

    def overdue(self, item: work.Item) -> None:
        self.overdue_items.append(item)

    def interrupted(self, error: BaseException) -> None:
        self.errors.append(error)


def order(queue: work.WorkQueue, key: str, wanted: int, *, after: float = 0.0) -> None:
    """Place an order: its own row and the work row, in one transaction."""
    with queue.database.write() as connection:
        changed = connection.execute(sa.update(kettles).where(kettles.c.key == key).values(wanted=wanted))
        if changed.rowcount == 0:
            connection.execute(sa.insert(kettles).values(key=key, wanted=wanted))
        queue.enqueue(connection, "kettle", key, tenant="t1", request_id="r1", after=after)


def observed(database: Database, key: str) -> int:
    with database.read() as connection:
        value: int = connection.scalar(sa.select(kettles.c.observed).where(kettles.c.key == key))
    return value


def saved(database: Database) -> list[tuple[str, int, int]]:
    with database.read() as connection:
        rows = connection.execute(sa.select(saves.c.key, saves.c.observed, saves.c.token).order_by(saves.c.number))
        return [(row.key, row.observed, row.token) for row in rows]
