"""Hundreds of `kill -9` on PostgreSQL, during whole lifecycles of compositions: the recorded objects match the running processes.

One all-in-one runs on its own PostgreSQL. Tenants order guestbooks, each of which orders a store, or hellos, whose
orchestrators share a host, and update, stop, start and delete them, one after another. Meanwhile processes are killed in an
order that derives from a seed: web and worker of service manager and cloud controller, alone or with their children, their fork
server, a process of a host of orchestrators, supervisors and their fork server, and PostgreSQL (one connection's process or
all). A kill happens as soon as its victim is ready again, at most one other victim is down, and an instance has made progress
since the last kill, so kills are spread over the lifecycles, including the recovery from earlier kills.

Afterwards, with one instance of each tenant alive, instances, applications, stacks and processes are compared, and every instance
that was ever ordered with its record. Finally all are deleted, and nothing may be left.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import random
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil
import pytest
import sqlalchemy as sa
import urllib3

import bundles
from archelon.all_in_one import PROCESSES, AllInOne
from archelon.demo.remains import left
from archelon.demo.stage import Stage
from archelon.service import await_entry, offer
from archelon.state_directory import StateDirectory
from archelon_api import service_manager as wire
from cloud_controller.platforms.local.hosts import SHARED
from cloud_controller.platforms.local.orders import HOSTS
from occi_service import client
from tests.archelon.harness import ROOT, first_port
from tests.conftest import missing
from tests.postgres import PostgresServer
from tests.tables import Tables
from tests.waiting import until

pytestmark = [pytest.mark.crash, pytest.mark.postgres, pytest.mark.timeout(1500)]

Answer = TypeVar("Answer")

KILLS: Final = int(os.environ.get("ARCHELON_TEST_KILLS", "200"))
SEED: Final = int(os.environ.get("ARCHELON_TEST_SEED") or random.SystemRandom().randrange(2**32))
#: Kills by victim, of twenty-four.
SHARES: Final = {
    **dict.fromkeys(PROCESSES, 3),
    "fork server": 1,
    "host": 6,
    "supervisor": 2,
    "supervisors' fork server": 1,
    "postgresql connection": 1,
    "postgresql": 1,
}
#: The services that a victim other than a service takes down.
_DOWN: Final = {
    **dict.fromkeys(SHARES, ()),
    **{each: (each,) for each in PROCESSES},
    "fork server": PROCESSES,
    "postgresql": PROCESSES,
}
#: Timeout in seconds of every condition, despite interruptions and other load.
TIMEOUT: Final = 300.0
_SERVICES: Final = ("service-manager", "cloud-controller")
_SCHEME: Final = "http://schemas.archelon.org/occi/service#"
#: Service of each tenant, and the attribute with the title of its page.
_SERVED: Final = [("guestbook", "guestbook.title")] * 3 + [("hello", "hello.greeting")]
_STATE: Final = "mcn.service.state"


class Installation:
    """The all-in-one and its PostgreSQL, with methods to kill processes and to inspect the state without the services."""

    def __init__(self, state: StateDirectory, postgresql: PostgresServer) -> None:
        self.state = state
        self.system = AllInOne(state, lambda _line: None)
        self.stage = Stage(state, self.system, show=lambda _line: None)
        self._postgresql = postgresql
        # No pool, because connections are broken often.
        self._engines = {
            service: sa.create_engine(state.database(service), poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
            for service in _SERVICES
        }

    def publish(self) -> None:
        connection = self.stage.connection("provider")
        with connection.open() as manager:
            for name in ("store", "guestbook", "hello"):
                bundle = bundles.Bundle.load(ROOT / "orchestrators" / name)
                offer(manager, bundle.pack())
                await_entry(connection, bundle.manifest.type)

    def query(self, service: str, statement: str) -> Sequence[Any]:
        """Run a statement, as soon as the database is available."""
        rows: list[Any] = []

        def succeeded() -> bool:
            try:
                with self._engines[service].connect() as connection:
                    rows[:] = connection.execute(sa.text(statement)).all()
            except sa.exc.DBAPIError:
                return False
            return True

        until(succeeded, f"PostgreSQL runs {statement}", seconds=TIMEOUT)
        return rows

    def progress(self) -> set[tuple[Any, ...]]:
        """Return id, state and generation of each instance."""
        return {tuple(row) for row in self.query("service-manager", "SELECT id, state, generation FROM sm_instances")}

    def ready(self, process: str) -> bool:
        port = getattr(self.state.ports(), process.removesuffix("-web").replace("-", "_"))
        try:
            with urllib3.PoolManager(retries=False, timeout=5.0) as http:
                return http.request("GET", f"http://127.0.0.1:{port}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _processes_of(self, victim: str) -> list[psutil.Process]:
        """Return the processes that are this victim now. Raises psutil.NoSuchProcess: there is none, or it has just ended."""
        if victim == "fork server":
            found = [psutil.Process(self.system.supervisor.pid(PROCESSES[0])).parent()]
            title = "archelon-services"
        elif victim == "supervisors' fork server":
            found = psutil.Process(self.system.supervisor.pid("cloud-controller-worker")).children()
            title = "archelon-supervisors"
        else:
            nodes = [each for each in self.stage.nodes() if each.pid and (victim == "supervisor" or each.host)]
            roots = {psutil.Process(each.pid) for each in nodes}
            if victim == "host":
                # The host itself, what it forked, and what isolates them.
                found, title = [each for root in roots for each in (root, *root.children(recursive=True))], ""
            else:
                found, title = [each.parent() for each in roots], "archelon-supervisor"
        fitting = [each for each in found if each is not None and (not title or each.cmdline()[:1] == [title])]
        if not fitting:
            raise psutil.NoSuchProcess(0)
        return sorted(fitting, key=lambda each: each.pid)

    def kill(self, victim: str, chance: random.Random) -> bool:
        """Kill a victim; return whether there was one."""
        if victim == "postgresql":
            self._postgresql.restart()
        elif victim == "postgresql connection":
            found = self.query(
                chance.choice(_SERVICES),
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            return bool(found) and _killed(chance.choice(found).pid)
        elif victim in ("fork server", "host", "supervisor", "supervisors' fork server"):
            # A process that is looked at may have been killed before.
            with contextlib.suppress(psutil.NoSuchProcess):
                return _killed(chance.choice(self._processes_of(victim)).pid)
            if victim == "supervisors' fork server":
                # A worker has none until it needs another supervisor.
                self.kill("supervisor", chance)
            return False
        elif chance.random() < 0.5:
            self.system.supervisor.kill(victim)
        else:
            # Its children are left behind.
            return _killed(self.system.supervisor.pid(victim))
        return True

    # inspection -------------------------------------------------------------------------------------------------------

    def mismatches(self, wanted: Mapping[str, str]) -> list[str]:
        """Return mismatches with the expected instances (id to service).

        Each has to be active and have one application and one stack, of which each process runs once; no others may exist.
        """
        instances = self.query("service-manager", "SELECT id, service, state FROM sm_instances")
        found = [f"instance {row.id} of {row.service} is {row.state}" for row in instances if row.state != "active"]
        if {row.id: row.service for row in instances} != wanted:
            found.append(f"the service manager has {sorted(row.id for row in instances)}, not {sorted(wanted)}")
        objects = self.query("cloud-controller", "SELECT instance, path FROM cloud_objects")
        for prefix in ("/application/", "/stack/"):
            counted = collections.Counter(row.instance for row in objects if row.path.startswith(prefix))
            if counted != collections.Counter(list(wanted)):
                found.append(f"the cloud controller has {dict(counted)} at {prefix}")
        shown = self.query("cloud-controller", "SELECT identifier FROM occi_entities")
        numbers = {
            prefix: sum(row.identifier.startswith(prefix) for row in shown) for prefix in ("/application/", "/stack/")
        }
        if numbers != dict.fromkeys(numbers, len(wanted)):
            found.append(f"the cloud controller shows {numbers}, not {len(wanted)} each")
        delegated = self.query("cloud-controller", "SELECT instance FROM cloud_delegations")
        found += [f"a delegation of {row.instance}" for row in delegated if row.instance not in wanted]
        return [*found, *self._processes(wanted)]

    def _processes(self, wanted: Mapping[str, str]) -> Iterator[str]:
        nodes = [each for each in self.stage.nodes() if each.pid]
        per = collections.Counter(each.instance for each in nodes if each.is_orchestrator)
        if per != collections.Counter(list(wanted)):
            yield f"orchestrators are recorded for {dict(per)}"
        # Of a host, there is one process.
        recorded = collections.Counter(
            {(HOSTS, each.host) if each.host else (each.instance, each.process) for each in nodes}
        )
        running = collections.Counter(_roots(self.state))
        if running[HOSTS, f"{SHARED}-0"] == 1:
            # It stays without instances too.
            recorded[HOSTS, f"{SHARED}-0"] = 1
        if running != recorded:
            yield f"{dict(running - recorded)} run unrecorded, {dict(recorded - running)} are recorded and do not run"


def _killed(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _roots(state: StateDirectory) -> Iterator[tuple[str, str]]:
    """Return instance and process name of each program's first process, by its working directory and not by any record."""
    for region in (state.cloud / "regions").iterdir():
        inside: dict[int, tuple[int, tuple[str, str]]] = {}
        instances = (region / "instances").resolve()
        for process in psutil.process_iter(["pid", "ppid", "cwd"]):
            directory = Path(process.info["cwd"] or "/")
            if directory.is_relative_to(instances) and directory != instances:
                instance, name = directory.relative_to(instances).parts[:2]
                inside[process.info["pid"]] = process.info["ppid"], (instance, name)
        yield from (names for parent, names in inside.values() if parent not in inside)


@dataclasses.dataclass
class Statistics:
    """Orders and kills of the run.

    Attributes:
        lives: instance of each order, and whether it was deleted.
        ordered: number of orders by service.
        seen: number of instances by state at the kills.
        refused: 5xx responses other than 502, 503 and 504.
    """

    lives: dict[str, bool] = dataclasses.field(default_factory=dict)
    ordered: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    kills: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seen: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    refused: list[str] = dataclasses.field(default_factory=list)
    over: threading.Event = dataclasses.field(default_factory=threading.Event)

    def text(self, seconds: float) -> str:
        """Return the table."""
        kills, ended = sum(self.kills.values()), sum(self.lives.values())
        lines = [
            f"kill loop on PostgreSQL, seed {SEED}: {kills} kills in {seconds:.0f} s; {len(self.lives)} services ordered, "
            f"{ended} deleted; {len(self.refused)} responses of 5xx other than 502, 503 and 504"
        ]
        lines += [f"  {victim:<24} {count:>4} kills" for victim, count in sorted(self.kills.items())]
        states = ", ".join([f"{state} {count}" for state, count in self.seen.most_common()])
        return "\n".join([*lines, f"  states of instances at the kills: {states}"])


class Tenant:
    """Takes one instance of its service after another through its lifecycle until the kills are over; the last one remains."""

    def __init__(
        self, installation: Installation, statistics: Statistics, chance: random.Random, service: str, title: str
    ) -> None:
        self.service = service
        self._title = title
        self._statistics = statistics
        self._chance = chance
        self._stage = installation.stage
        self._manager = installation.stage.connection("tenant").open()
        self._web = urllib3.PoolManager(retries=False, timeout=10.0)
        self.path = self.instance = ""

    def close(self) -> None:
        self._manager.close()
        self._web.clear()

    def run(self) -> None:
        while True:
            self.order()
            if self._statistics.over.is_set():
                return
            for step in self._chance.sample([self.update, self.stop_and_start], k=2):
                if not self._statistics.over.is_set():
                    step()
            self.delete()

    # lifecycle --------------------------------------------------------------------------------------------------------

    def order(self) -> None:
        self.path, title = f"/{self.service}/{uuid.uuid4()}", f"First {uuid.uuid4()}"
        self._insist(lambda: self._manager.put(self.path, _SCHEME + self.service, {self._title: title}))
        self.instance = str(self._shown()["org.archelon.instance"])
        self._statistics.lives[self.instance] = False
        self._statistics.ordered[_SCHEME + self.service] += 1
        self._reaches("active")
        self._await_title(title)

    def update(self) -> None:
        title = f"Then {uuid.uuid4()}"
        self._insist(lambda: self._manager.update(self.path, {self._title: title}))
        self._reaches("active")
        self._await_title(title)

    def stop_and_start(self) -> None:
        for action, on_the_way, then in ((wire.STOP, "stop", "inactive"), (wire.START, "start", "active")):

            def ask(action: Any = action, done: tuple[str, str] = (on_the_way, then)) -> None:
                # The response to an earlier attempt may have been lost.
                if self._shown()[_STATE] not in done:
                    self._manager.act(self.path, action.scheme + action.term)

            self._insist(ask)
            self._reaches(then)

    def delete(self) -> None:
        def ask() -> None:
            with contextlib.suppress(client.NotFoundError):
                self._manager.delete(self.path)

        self._insist(ask)
        until(lambda: not self._insist(lambda: self._manager.exists(self.path)), self._of("gone"), seconds=TIMEOUT)
        self._statistics.lives[self.instance] = True

    # observation ------------------------------------------------------------------------------------------------------

    def record(self, instance: str) -> Mapping[str, Any]:
        return self._insist(lambda: self._manager.get(f"/record/{instance}")).attributes

    def records(self) -> list[str]:
        found = self._insist(lambda: [str(each) for each in self._manager.locations("/record/")])
        return [each.rpartition("/")[2] for each in found]

    def _shown(self) -> Mapping[str, Any]:
        return self._insist(lambda: self._manager.get(self.path)).attributes

    def _reaches(self, wanted: str) -> None:
        def reached() -> bool:
            shown = self._shown()
            assert shown[_STATE] != "fail", f"{self.path}: {shown.get('mcn.service.state.message')}; seed {SEED}"
            return bool(shown[_STATE] == wanted)

        until(reached, self._of(wanted), seconds=TIMEOUT, pause=0.5)

    def _await_title(self, title: str) -> None:
        """Wait until the instance's page shows the latest title."""

        def shown() -> bool:
            status, text = self._stage.web("GET", str(self._shown()[f"{self.service}.url"]), quiet=True)
            return status == 200 and title in text

        until(shown, self._of(f"titled {title}"), seconds=TIMEOUT, pause=0.1)

    def _of(self, wanted: str) -> str:
        return f"{self.path} is {wanted}; seed {SEED}"

    def _insist(self, ask: Callable[[], Answer]) -> Answer:
        """Retry a request until it succeeds."""
        answers: list[Answer] = []

        def succeeded() -> bool:
            try:
                answers.append(ask())
            except (client.TransportError, client.UnavailableError):
                return False
            except client.ServerError as error:
                self._statistics.refused.append(str(error))
                return False
            return True

        until(succeeded, f"a request succeeds; seed {SEED}", seconds=TIMEOUT)
        return answers[0]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    programs = PostgresServer.programs()
    if programs is None:
        missing("PostgreSQL (initdb)", package="postgresql")
    assert programs is not None
    # Its own server, which the test kills; outside of pytest's directories, because the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="archelon-postgres-") as directory, contextlib.ExitStack() as stack:
        server = PostgresServer(programs, Path(directory))
        url = sa.make_url(stack.enter_context(server))
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
        names = {service: service.replace("-", "_") for service in _SERVICES}
        with engine.connect() as connection:
            for name in names.values():
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        urls = {
            service: url.set(database=name).render_as_string(hide_password=False) for service, name in names.items()
        }
        state = StateDirectory(tmp_path / "state", databases=urls)
        stack.enter_context(state.locked())
        state.make(host="127.0.0.1", first_port=first_port())
        made = Installation(state, server)
        stack.callback(made.system.down)
        stack.callback(made.stage.close)
        made.system.up()
        made.publish()
        yield made


def test_records_and_processes_match_after_many_kills(installation: Installation, tables: Tables) -> None:
    chance = random.Random(SEED)
    statistics = Statistics()
    tenants = [Tenant(installation, statistics, random.Random(chance.random()), *each) for each in _SERVED]
    begun = time.monotonic()
    try:
        with concurrent.futures.ThreadPoolExecutor(len(tenants)) as pool:
            lives = [pool.submit(each.run) for each in tenants]
            try:
                kill(installation, statistics, lives, chance)
            finally:
                statistics.over.set()
            for life in lives:
                life.result()
        check_consistency(installation, statistics, tenants)
        for tenant in tenants:
            tenant.delete()
        # A service that cannot respond returns 502, 503 or 504 only.
        assert statistics.refused == []
        until(lambda: not left(installation.state), f"nothing is left; seed {SEED}", seconds=TIMEOUT)
    finally:
        tables.add(statistics.text(time.monotonic() - begun))
        for tenant in tenants:
            tenant.close()
    assert installation.system.down() == []


def kill(
    installation: Installation,
    statistics: Statistics,
    lives: Sequence[concurrent.futures.Future[None]],
    chance: random.Random,
) -> None:
    """Kill the victims one after another."""
    victims = [victim for victim, share in SHARES.items() for _ in range(share)]
    down: set[str] = set()
    last: set[tuple[Any, ...]] = set()
    for victim in chance.choices(victims, k=KILLS):

        def hit(victim: str = victim) -> bool:
            failed = next((life.exception() for life in lives if life.done()), None)
            if failed is not None:
                raise failed
            down.difference_update([each for each in down if installation.ready(each)])
            if victim in down or len(down) > 1:
                return False
            progress = installation.progress()
            if progress == last or not installation.kill(victim, chance):
                return False
            statistics.seen.update(str(state) for _, state, _ in progress)
            last.clear()
            last.update(progress)
            return True

        until(hit, f"{victim} can be killed; seed {SEED}", seconds=TIMEOUT, pause=0.1)
        statistics.kills[victim] += 1
        # After PostgreSQL's kill, all processes lack their database for a while.
        down.update(_DOWN[victim])


def check_consistency(installation: Installation, statistics: Statistics, tenants: Sequence[Tenant]) -> None:
    """Compare records and processes while the last instance of each tenant is alive."""
    living = {tenant.instance for tenant in tenants}
    assert {instance for instance, deleted in statistics.lives.items() if not deleted} == living
    first = tenants[0]
    records = {instance: first.record(instance) for instance in first.records()}
    services = collections.Counter(str(each["org.archelon.service"]) for each in records.values())
    # Nothing was created twice, and no guestbook has ordered two stores.
    guestbooks = statistics.ordered[f"{_SCHEME}guestbook"]
    assert services == {**statistics.ordered, f"{_SCHEME}store": guestbooks}
    assert set(statistics.lives) <= set(records)
    for instance, record in records.items():
        phases = [(each["phase"], each["generation"]) for each in record["org.archelon.record.phases"]]
        assert len(set(phases)) == len(phases), f"a phase of {instance} is recorded twice: {phases}"
    wanted = {
        instance: str(record["org.archelon.service"])
        for instance, record in records.items()
        if not record.get("org.archelon.record.ended")
    }
    stores = {instance for instance, service in wanted.items() if service == f"{_SCHEME}store"}
    assert wanted.keys() - stores == living
    assert len(stores) == sum(each.service == "guestbook" for each in tenants)
    found: list[str] = []

    def consistent() -> bool:
        found[:] = installation.mismatches(wanted)
        return not found

    try:
        until(consistent, f"records and processes match; seed {SEED}", seconds=60)
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}") from None
