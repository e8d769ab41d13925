"""The bench of the crash tests: a service manager whose processes can be killed at a chosen point, and the checks afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from archelon.demo.remains import RECURRING
from archelon_api import service_manager as wire
from archelon_core.database import Database
from archelon_core.queue.table import work as work_rows
from occi_service import client
from occi_service.registry.tables import entities
from service_manager.store import tables
from tests.fakes.cloud import FakeCloudProcess, JournalEntries

from .harness import ROOT, TYPE, Keys, ServiceManager, make_bundle


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: the number of kills (or other faults), of orders that ended correctly, and of leftovers."""

    scenario: str
    kills: int
    ended: int
    left_over: int


class Table:
    """Collects rows for output at the end."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def text(self) -> str:
        """Format the table."""
        lines = [f"{'scenario':<58} {'kills':>5} {'ended right':>11} {'left over':>9}"]
        lines += [f"{row.scenario:<58} {row.kills:>5} {row.ended:>11} {row.left_over:>9}" for row in self.rows]
        total = (sum(row.kills for row in self.rows), sum(row.ended for row in self.rows))
        return "\n".join([*lines, f"{'all':<58} {total[0]:>5} {total[1]:>11}"])


class ForkedServiceManager(ServiceManager):
    """A service manager whose processes are forks, optionally with a fuse."""

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(directory, **options)
        self._launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.service_manager.crash_launcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._pids: dict[str, int] = {}

    def _ask(self, **order: Any) -> Any:
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        self._launcher.stdin.write(json.dumps(order) + "\n")
        self._launcher.stdin.flush()
        return json.loads(self._launcher.stdout.readline())

    def start(self, *names: str, die_at: int = 0) -> None:
        """Start processes, without waiting for them."""
        for name in names or ("web", "worker"):
            self.place_file(name).unlink(missing_ok=True)
            self._pids[name] = self._ask(
                do="start",
                role=name.split("-")[0],
                environment=self._environment,
                die_at=die_at,
                place_file=str(self.place_file(name)),
                log=str(self.log),
            )

    def place_file(self, name: str) -> Path:
        """The file to which a fuse writes where it killed the process."""
        return self.directory / f"died.{name}"

    def runs(self, name: str) -> bool:
        """Return whether a started process still runs."""
        return name in self._pids and bool(self._ask(do="poll", pid=self._pids[name]))

    def kill(self, name: str) -> None:
        """Kill a process with SIGKILL."""
        pid = self._pids.pop(name, None)
        if pid is not None:
            self._ask(do="kill", pid=pid)

    def stop(self) -> None:
        """Kill all processes."""
        for name in list(self._pids):
            self.kill(name)
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        self._launcher.stdin.close()
        self._launcher.wait(20)
        self._launcher.stdout.close()


@dataclasses.dataclass(slots=True)
class Round:
    """One order: `died` contains the points at which processes were killed; `instance` is the id, once it is ordered."""

    path: str
    died: list[str] = dataclasses.field(default_factory=list)
    instance: str = ""


class Bench:
    """A cloud, a service manager, and a tenant that retries: killed processes are restarted while it waits."""

    def __init__(self, cloud: FakeCloudProcess, manager: ForkedServiceManager, database_url: str) -> None:
        self.cloud = cloud
        self.manager = manager
        self.database = Database(database_url)
        self._tenant = manager.as_(
            "alice", timeout=client.Timeout(connect=1, read=10, total=10), retry=client.Retry(attempts=1)
        )

    def close(self) -> None:
        """Stop everything."""
        self._tenant.close()
        self.manager.stop()
        self.database.close()

    # processes --------------------------------------------------------------------------------------------------------

    def revive(self, round_: Round | None = None) -> None:
        """Restart processes that have died, without a fuse."""
        for name in ("web", "worker"):
            if not self.manager.runs(name):
                place = self.manager.place_file(name)
                if round_ is not None and place.exists():
                    round_.died.append(place.read_text(encoding="utf-8"))
                self.manager.kill(name)
                self.manager.start(name)

    def until(
        self, condition: Callable[[], Any], what: str, round_: Round | None = None, *, seconds: float = 60
    ) -> Any:
        """Wait for a condition, restarting processes that die meanwhile."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(client.TransportError, client.UnavailableError):
                value = condition()
                if value:
                    return value
            if time.monotonic() > end:
                log = self.manager.log.read_text(errors="replace")[-3000:]
                died = f"; died at {round_.died}" if round_ is not None else ""
                raise AssertionError(f"not within {seconds} s: {what}{died}; log:\n{log}")
            self.revive(round_)
            time.sleep(0.03)

    def publish(self) -> None:
        """Publish the test service with a bundle that the cloud controller does not have yet."""
        version = str(uuid.uuid4())
        packed = make_bundle(self.manager.directory / f"bundle-{version}", version=version)
        self.until(lambda: self.manager.publish(packed), "the test service is published")

    # the tenant -------------------------------------------------------------------------------------------------------

    def state(self, path: str) -> str | None:
        """Return the state that is shown; None if the instance is gone."""
        try:
            return str(self._tenant.get(path).attributes[wire.STATE])
        except client.NotFoundError:
            return None

    def order(self, round_: Round) -> None:
        """Order at a path, retrying until the order is accepted."""
        self.until(lambda: self._tenant.put(round_.path, TYPE, {"demo.size": 1}), "the order is accepted", round_)
        wanted = sa.select(tables.instances.c.id).where(tables.instances.c.path == round_.path)
        with self.database.read() as connection:
            round_.instance = str(connection.scalar(wanted))

    def update(self, round_: Round) -> None:
        """Change a parameter, retrying until the update is accepted."""

        def accepted() -> bool:
            self._tenant.update(round_.path, {"demo.size": 2})
            return True

        self.until(accepted, "the update is accepted", round_)

    def act(self, round_: Round, term: str) -> None:
        """Invoke `stop`, `start` or `retry`, retrying until it is accepted."""
        action = {"stop": wire.STOP, "start": wire.START, "retry": wire.RETRY}[term]
        done = {"stop": ("stop", "inactive"), "start": ("start", "active"), "retry": ()}[term]

        def accepted() -> bool:
            # Already in that state: the response of an earlier attempt was lost.
            if self.state(round_.path) not in done:
                self._tenant.act(round_.path, action.scheme + action.term)
            return True

        self.until(accepted, f"{term} is accepted", round_)

    def delete(self, round_: Round) -> None:
        """Send DELETE, retrying until it is accepted."""

        def accepted() -> bool:
            with contextlib.suppress(client.NotFoundError):
                self._tenant.delete(round_.path)
            return True

        self.until(accepted, "the DELETE is accepted", round_)

    def ends(self, round_: Round, state: str | None, *, seconds: float = 60) -> None:
        """Wait until the instance is in a state, or gone."""
        seen: list[Any] = []

        def reached() -> bool:
            seen.append(self.state(round_.path))
            return bool(seen[-1] == state)

        try:
            self.until(reached, f"{round_.path} is {state}", round_, seconds=seconds)
        except AssertionError as error:
            entries = [each for each in self.cloud.entries().entries if each.get("instance") == round_.instance]
            journal = "\n".join([str(each) for each in entries[-30:]])
            raise AssertionError(f"{error}\nit is {seen[-1:]}; the fake cloud's journal:\n{journal}") from None

    def attribute(self, round_: Round, name: str) -> Any:
        """Return an attribute of the instance as its tenant sees it."""
        return self.until(lambda: self._tenant.get(round_.path), f"{round_.path} is shown").attributes.get(name)

    def new(self, *, active: bool = False, inactive: bool = False) -> Round:
        """Return a new round, optionally with an active or inactive instance."""
        round_ = Round(f"/demo/{uuid.uuid4()}")
        if active or inactive:
            self.order(round_)
            self.ends(round_, "active")
        if inactive:
            self.act(round_, "stop")
            self.ends(round_, "inactive")
        return round_

    # checks -----------------------------------------------------------------------------------------------------------

    def check(
        self,
        round_: Round,
        phases: Mapping[tuple[int, str], int],
        *,
        starts: int = 1,
        begun: bool = True,
        earlier: JournalEntries | None = None,
    ) -> None:
        """Check for one application, its number of starts, and how often each phase of each generation was carried out.

        Args:
            begun: whether each phase was also begun that often.
            earlier: journal entries before the last reset.
        """
        entries = JournalEntries([*(earlier.entries if earlier else []), *self.cloud.entries().entries])
        assert entries.phases(round_.instance) == Counter(phases), round_
        assert entries.starts(round_.instance) == starts, round_
        assert entries.times("application created", round_.instance) == 1, round_
        if begun:
            effects = entries.effects("phase begun", round_.instance)
            assert Counter([(each["generation"], each["phase"]) for each in effects]) == Counter(phases), round_
        # Web may have been killed right after it showed the end, since its fuse is after the write.
        record = self.until(lambda: self._tenant.get(f"/record/{round_.instance}"), "the record is shown", round_)
        history = record.attributes["org.archelon.record.phases"]
        names = Counter([(each["phase"], each["generation"]) for each in history])
        assert max(names.values()) == 1, (round_, history)

    def clean(self) -> int:
        """Delete every remaining instance, wait until all are gone, and check that nothing is left. Returns 0."""
        paths: list[str] = []

        def listed() -> bool:
            paths[:] = [str(each) for each in self._tenant.locations("/demo/")]
            return True

        self.until(listed, "the instances are listed")
        for path in paths:
            self.delete(Round(path[path.index("/demo/") :]))
        self.until(lambda: listed() and not paths, "all are gone")
        left = [*self.cloud.left_over(), *self._left_in_database()]
        assert left == []
        assert self.cloud.entries().violations == []
        return len(left)

    def _left_in_database(self) -> Sequence[str]:
        own = entities.c.kind.not_in([kind.scheme + kind.term for kind in (wire.RECORD, wire.PUBLISHED)])
        armed = (work_rows.c.due.is_not(None) | work_rows.c.lease_end.is_not(None)) & work_rows.c.topic.not_in(
            RECURRING
        )
        dead = work_rows.c.outcome == "dead"
        with self.database.read() as connection:
            instances = connection.scalars(sa.select(tables.instances.c.id)).all()
            invocations = connection.scalars(sa.select(tables.invocations.c.id)).all()
            shown = connection.scalars(sa.select(entities.c.identifier).where(own)).all()
            works = connection.execute(sa.select(work_rows.c.topic, work_rows.c.key).where(armed | dead)).all()
        return [*instances, *invocations, *shown, *(f"work {row.topic} {row.key}" for row in works)]


@contextlib.contextmanager
def bench(directory: Path, database_url: str, **settings: str) -> Iterator[Bench]:
    """Start everything, and publish the test service."""
    keys = Keys()
    outputs = {"mcn.endpoint.p1": "http://p1.example.org/{instance}"}
    chosen = {"ARCHELON_LEASE": "0.6", "ARCHELON_WORKER_THREADS": "4", "ARCHELON_ACCESS_LOG": "false"} | settings
    with FakeCloudProcess(directory, keys=[keys.signing.public], outputs=outputs) as cloud:
        manager = ForkedServiceManager(
            directory, design_url=cloud.url + "/design", database_url=database_url, keys=keys, settings=chosen
        )
        made = Bench(cloud, manager, database_url)
        try:
            manager.start()
            made.publish()
            yield made
        finally:
            made.close()
