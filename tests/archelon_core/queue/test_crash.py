"""Workers are killed with -9 at random under load: every item is done, every effect happens once, takeover within a lease."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import pytest
import sqlalchemy as sa

from archelon_core import queue as work
from archelon_core.database import Database
from archelon_core.queue.table import work as rows
from tests.tables import Tables
from tests.thoroughness import ROUNDS

from .crash_worker import effects
from .kettles import kettles, saved

ITEMS = 1000
DEGREES = 4
#: Shorter than the default of 10 s, so that the test is; everything scales with it.
LEASE = 2.0


class Standstills:
    """Periods in which the machine stands still, measured by writing a byte to the disk ten times a second. They do not count as
    delays of the queue.

    Args:
        file: the file to write.
    """

    _BEAT = 0.1

    def __init__(self, file: Path) -> None:
        self._file = file
        self._spells: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="standstills", daemon=True)

    def __enter__(self) -> Standstills:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        last = time.time()
        with self._file.open("wb", buffering=0) as file:
            while not self._ended.wait(self._BEAT):
                file.write(b".")
                os.fsync(file.fileno())
                now = time.time()
                if now - last > 3 * self._BEAT:
                    self._spells.append((last + self._BEAT, now))
                last = now

    def within(self, begin: float, end: float) -> float:
        """Their seconds between two times."""
        return sum(max(0.0, min(end, late) - max(begin, early)) for early, late in self._spells)


class Crew:
    """Two worker processes; a killed one is replaced, and the next is killed once the replacement runs.

    So at any time one can take over. Otherwise the test would measure a start-up, not the queue.
    """

    def __init__(self, database: Database, log: Path) -> None:
        self._database = database
        self._log = log
        self._count = 0
        self._at_work: set[tuple[str, subprocess.Popen[bytes]]] = set()
        self.members = {self._start(): None for _ in range(2)}
        self.held: list[tuple[str, int, float]] = []
        """Key, token and time of death, for every row that a killed worker held."""

    def _start(self) -> tuple[str, subprocess.Popen[bytes]]:
        self._count += 1
        owner = f"crash-{self._count}"
        url = self._database.url.render_as_string(hide_password=False)
        command = [
            sys.executable,
            "-m",
            "tests.archelon_core.queue.crash_worker",
            url,
            owner,
            str(LEASE),
            str(self._log),
        ]
        return owner, subprocess.Popen(command, stdout=subprocess.PIPE)

    def assemble(self) -> None:
        """Wait until all workers run."""
        for member in self.members:
            if member not in self._at_work:
                stream = member[1].stdout
                assert stream is not None
                assert stream.readline() == b"at work\n"
                self._at_work.add(member)

    def kill_one(self, chance: random.Random) -> None:
        owner, process = member = chance.choice(list(self.members))
        process.kill()
        process.communicate()
        died = time.time()
        with self._database.read() as connection:
            left = connection.execute(sa.select(rows.c.key, rows.c.token).where(rows.c.lease_owner == owner)).all()
        self.held += [(key, token, died) for key, token in left]
        del self.members[member]
        self.members[self._start()] = None

    def end(self) -> list[int]:
        for _, process in self.members:
            process.terminate()
        return [process.communicate(timeout=120) and process.returncode for _, process in self.members]

    def takeovers(self, standstills: Standstills) -> list[float]:
        """Seconds from each death to the next claim of its rows, except those in which the machine stood still."""
        claims = [line.split() for line in self._log.read_text().splitlines()]
        seconds = []
        for key, token, died in self.held:
            later = [float(when) for name, number, _, when in claims if name == key and int(number) > token]
            # None if a transaction under way at the kill settled the row.
            if later:
                seconds.append(min(later) - died - standstills.within(died, min(later)))
        return seconds


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_killed_workers_lose_nothing_and_repeat_nothing(
    database: Database, tmp_path: Path, round_: int, tables: Tables
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    effects.create(database.engine, checkfirst=True)
    queue = work.WorkQueue(database)
    crew = Crew(database, tmp_path / "claims")
    kills = 0
    try:
        with Standstills(tmp_path / "beats") as standstills:
            for number in range(ITEMS):
                with database.write() as connection:
                    connection.execute(sa.insert(kettles).values(key=f"k{number}", wanted=DEGREES))
                    queue.enqueue(connection, "kettle", f"k{number}")
            started = time.monotonic()
            while _unfinished(database):
                assert time.monotonic() - started < 600, f"not done in time, seed {seed}"
                crew.assemble()
                member = chance.choice(list(crew.members))[1]
                # The pause between kills; a worker that exits by itself has failed.
                with pytest.raises(subprocess.TimeoutExpired):
                    member.wait(timeout=chance.uniform(0.1, 0.8))
                if _unfinished(database) and kills < 12:
                    crew.kill_one(chance)
                    kills += 1
            # The work may be done before the last replacement has set its signal handler.
            crew.assemble()
            assert crew.end() == [0, 0]
    finally:
        for _, process in crew.members:
            process.kill()
            process.wait()

    everything = {(f"k{number}", degree) for number in range(ITEMS) for degree in range(1, DEGREES + 1)}
    with database.read() as connection:
        calls = {(key, degree): count for key, degree, count in connection.execute(sa.select(effects))}
        assert connection.scalar(sa.select(sa.func.count()).where(kettles.c.observed == DEGREES)) == ITEMS
    assert set(calls) == everything
    progress = saved(database)
    assert len(progress) == len(everything), "progress was written twice"
    assert {(key, degree) for key, degree, _ in progress} == everything
    tokens: dict[str, int] = {}
    for key, _, token in progress:
        assert token >= tokens.get(key, 0), "an older token wrote after a newer"
        tokens[key] = token
    seconds = crew.takeovers(standstills)
    assert kills
    assert seconds, f"no killed worker held anything, seed {seed}"
    p95 = statistics.quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    repeated = sum(count - 1 for count in calls.values())
    tables.add(
        f"{database.dialect}: {kills} kills, {len(seconds)} items taken over, p50 {statistics.median(seconds):.2f} s, "
        f"p95 {p95:.2f} s, lease {LEASE} s; {repeated} calls repeated and absorbed by the receiver, seed {seed}"
    )
    # A lease runs from the last heartbeat; twice that tolerates a busy machine.
    assert p95 <= 2 * LEASE


def _unfinished(database: Database) -> bool:
    with database.read() as connection:
        return bool(connection.scalar(sa.select(sa.func.count()).where(rows.c.outcome.is_(None))))
