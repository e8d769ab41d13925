"""kill -9 at every step of every order: it ends correctly, nothing happens twice, and nothing is left over."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.tables import Tables
from tests.thoroughness import ROUNDS, STRIDE

from .crash_bench import Bench, Round, Row, Table, bench

#: One round of the longest takes about three minutes on a quiet machine.
pytestmark = [pytest.mark.crash, pytest.mark.timeout(900 * ROUNDS)]

#: More touches of the fuse than any order has.
_MOST = 120

Act = Callable[[Bench, Round], None]


def create(lab: Bench, round_: Round) -> None:
    lab.order(round_)
    lab.ends(round_, "active")


def update(lab: Bench, round_: Round) -> None:
    lab.update(round_)
    lab.ends(round_, "active")


def stop(lab: Bench, round_: Round) -> None:
    lab.act(round_, "stop")
    lab.ends(round_, "inactive")


def start(lab: Bench, round_: Round) -> None:
    lab.act(round_, "start")
    lab.ends(round_, "active")


def delete(lab: Bench, round_: Round) -> None:
    lab.delete(round_)
    lab.ends(round_, None)


CREATED = {(1, "deploy"): 1, (1, "provision"): 1}
#: name: (state before, act, phases carried out afterwards)
SCENARIOS: Mapping[str, tuple[str | None, Act, Mapping[tuple[int, str], int]]] = {
    "create": (None, create, CREATED),
    "create by sending": (None, create, CREATED),
    "update": ("active", update, {**CREATED, (2, "update"): 1}),
    "stop": ("active", stop, {**CREATED, (2, "stop"): 1}),
    "start": ("inactive", start, {**CREATED, (2, "stop"): 1, (3, "start"): 1}),
    "delete": ("active", delete, {**CREATED, (1, "destroy"): 1}),
}


@pytest.fixture(scope="module")
def table(tables: Tables) -> Iterator[Table]:
    made = Table()
    yield made
    tables.add(made.text())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory: Path = tmp_path_factory.mktemp("crash")
    with bench(directory, f"sqlite:///{directory}/state.db") as made:
        yield made


@pytest.fixture(autouse=True)
def ordering(lab: Bench) -> Iterator[None]:
    """Orchestrators take their orders in the answer of `renew`, unless a test says otherwise."""
    yield
    lab.cloud.configure(takes_orders=True)


def configure(lab: Bench, name: str) -> None:
    """Have orders sent if the scenario or the request is about that; images of an earlier SDK do not take them.

    A bundle is looked for only if the cloud controller lacks it.
    """
    lab.cloud.configure(takes_orders=name not in SENT)
    if name == "bundle":
        lab.publish()


def new(lab: Bench, before: str | None) -> Round:
    return lab.new(active=before == "active", inactive=before == "inactive")


def kill_at_every_touch(lab: Bench, victim: str, name: str, *, stride: int = 1, beside: bool = False) -> int:
    """Repeat a scenario, killing at the first touch of the fuse, the second…, until it ends without a kill.

    Args:
        stride: touches between two kills.
            beside: whether another worker runs as well, which takes over at once.
    """
    before, act, phases = SCENARIOS[name]
    configure(lab, name)
    kills = 0
    for touch in range(1, _MOST, stride * STRIDE):
        round_ = new(lab, before)
        lab.manager.kill(victim)
        lab.manager.start(victim, die_at=touch)
        if beside:
            lab.manager.kill("worker-2")
            lab.manager.start("worker-2")
        act(lab, round_)
        lab.revive(round_)
        lab.check(round_, phases)
        if not round_.died and not beside:
            break
        kills += len(round_.died)
        if beside and touch > 30:
            break
    else:
        raise AssertionError(f"{name} never ended without a kill")
    lab.manager.kill("worker-2")
    # Leave all processes running, without a fuse.
    lab.manager.kill(victim)
    lab.revive()
    return kills


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("victim", ["worker", "web"])
def test_killed_at_every_step(lab: Bench, table: Table, victim: str, name: str) -> None:
    kills = 0
    for _ in range(ROUNDS):
        kills += kill_at_every_touch(lab, victim, name)
    # Of an order that is taken, a worker only makes the application.
    assert kills >= max(1, (3 if name == "create" else 4) * ROUNDS // STRIDE)
    table.rows.append(Row(f"{victim} killed at every step of {name}", kills, kills, lab.clean()))


def disarm(lab: Bench, victim: str) -> None:
    """Restart a process whose fuse did not kill it, so that it does not die in the next test."""
    lab.manager.kill(victim)
    lab.manager.start(victim)


def delete_during_create(lab: Bench, touch: int) -> Round:
    """DELETE as soon as the phase deploy is in progress, however often the worker has been killed until then."""
    round_ = lab.new()
    lab.manager.kill("worker")
    lab.manager.start("worker", die_at=touch)
    lab.order(round_)
    begun = lambda: lab.cloud.entries().times("phase begun", round_.instance, phase="deploy") > 0  # noqa: E731
    lab.until(begun, "deploy is under way", round_)
    delete(lab, round_)
    lab.revive(round_)
    return round_


def test_worker_killed_at_every_step_of_delete_during_create(lab: Bench, table: Table) -> None:
    lab.cloud.configure(phase_delays={"deploy": 0.4})
    kills = 0
    for touch in range(1, _MOST, STRIDE):
        round_ = delete_during_create(lab, touch)
        entries = lab.cloud.entries()
        phases = entries.phases(round_.instance)
        assert phases[(1, "destroy")] == 1
        assert entries.starts(round_.instance) == 1
        assert entries.times("phase begun", round_.instance, phase="deploy") == 1
        assert entries.times("phase cancelled", round_.instance, phase="deploy") + phases[(1, "deploy")] == 1
        kills += len(round_.died)
        if not round_.died:
            break
    lab.cloud.configure(phase_delays={})
    disarm(lab, "worker")
    assert kills > 15 // STRIDE
    table.rows.append(Row("worker killed at every step of delete during create", kills, kills, lab.clean()))


#: A worker's requests in one lifecycle, in order: (name, scenario, request).
REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    ("bundle", "create", {"module": "deploy", "method": "HEAD", "path": "^/bundle/"}),
    ("application", "create", {"module": "deploy", "method": "PUT", "path": "^/application/"}),
    ("activation", "create", {"module": "orchestrator", "method": "PUT"}),
    ("deploy", "create", {"module": "orchestrator", "method": "POST", "action": "deploy"}),
    ("provision", "create", {"module": "orchestrator", "method": "POST", "action": "provision"}),
    ("update", "update", {"module": "orchestrator", "method": "POST", "action": "update"}),
    ("stop", "stop", {"module": "orchestrator", "method": "POST", "action": "stop"}),
    ("start", "start", {"module": "orchestrator", "method": "POST", "action": "start"}),
    ("dismissal", "delete", {"module": "orchestrator", "method": "DELETE"}),
    ("disposal", "delete", {"module": "disposal", "method": "PUT"}),
    ("poll of the disposal", "delete", {"module": "disposal", "method": "GET"}),
    ("delegation", "delete", {"module": "design", "method": "DELETE"}),
]

#: Scenarios and requests of orders that are sent.
SENT = ("create by sending", "activation", "deploy", "provision")


@pytest.mark.parametrize("kind", ["delay", "delay_after"])
def test_worker_killed_in_every_request(lab: Bench, table: Table, kind: str) -> None:
    """Killed during its request: before its effect, which happens later, or after an effect of which it gets no response."""
    count = 0
    for what, scenario, request in REQUESTS[::STRIDE]:
        before, _, phases = SCENARIOS[scenario]
        configure(lab, what)
        round_ = new(lab, before)
        earlier = lab.cloud.entries()
        lab.cloud.forget()
        lab.cloud.fault(kind, seconds=20, **request)  # type: ignore[arg-type]
        if scenario == "create":
            lab.order(round_)
        elif scenario == "update":
            lab.update(round_)
        elif scenario == "delete":
            lab.delete(round_)
        else:
            lab.act(round_, scenario)
        lab.cloud.wait_for("request held", kind=kind, module=request["module"])
        lab.manager.kill("worker")
        count += 1
        lab.ends(round_, {"stop": "inactive", "delete": None}.get(scenario, "active"))
        # The killed worker's request takes effect now, after everything that its successor did.
        lab.cloud.clear()
        lab.cloud.wait_for_request(module=request["module"], method=request["method"], faults=[kind])
        lab.check(round_, phases, earlier=earlier)
    table.rows.append(Row(f"worker killed in a request ({kind})", count, count, lab.clean()))


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "status"])
def test_every_response_is_lost_once(lab: Bench, table: Table, kind: str) -> None:
    """Each request fails once, without its effect or with it, and is repeated."""
    lab.cloud.forget()
    count = 0
    for what, scenario, request in REQUESTS[::STRIDE]:
        before, act, phases = SCENARIOS[scenario]
        configure(lab, what)
        round_ = new(lab, before)
        lab.cloud.fault(kind, **request)  # type: ignore[arg-type]
        act(lab, round_)
        lab.check(round_, phases)
        assert lab.cloud.entries().requests(**_fields(request), faults=[kind])
        count += 1
    table.rows.append(Row(f"every request fails once ({kind})", count, count, lab.clean()))


def _fields(request: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in request.items() if name != "path"}


# --- orchestrators ---------------------------------------------------------------------------------------------------


def test_the_orchestrator_crashes_in_every_phase(lab: Bench, table: Table) -> None:
    count = 0
    for phase, scenario in [
        ("deploy", "create"),
        ("provision", "create"),
        *[(name, name) for name in ("update", "stop", "start")],
        ("destroy", "delete"),
    ]:
        before, act, phases = SCENARIOS[scenario]
        round_ = new(lab, before)
        where = {"method": "DELETE"} if phase == "destroy" else {"action": phase}
        lab.cloud.fault("crash", module="orchestrator", **where)  # type: ignore[arg-type]
        act(lab, round_)
        entries = lab.cloud.entries()
        if phase == "provision":
            # Both phases are one exchange: `deploy` is repeated too, unless the report about it was faster than the crash.
            phases = {**phases, (1, "deploy"): min(2, max(1, entries.phases(round_.instance)[1, "deploy"]))}
        lab.check(round_, phases, starts=2, begun=False)
        assert entries.times("orchestrator crashed", round_.instance) == 1
        assert entries.times("phase begun", round_.instance, phase=phase) == 2
        count += 1
    table.rows.append(Row("orchestrator crashes in every phase", count, count, lab.clean()))


@pytest.mark.parametrize("state", ["active", "inactive"])
def test_the_orchestrator_crashes_at_rest(lab: Bench, table: Table, state: str) -> None:
    """It is activated again, with the private state that it stored."""
    round_ = new(lab, state)
    lab.cloud.crash(round_.instance)
    lab.cloud.wait_for("application started", round_.instance, process=2)
    if state == "active":
        lab.cloud.wait_for("activated", round_.instance, process=2)
    else:
        start(lab, round_)
    update(lab, round_)
    assert lab.cloud.entries().starts(round_.instance) == 2
    table.rows.append(Row(f"orchestrator crashes while {state}", 1, 1, lab.clean()))


def test_an_update_that_was_never_sent_does_not_delay_a_delete(lab: Bench, table: Table) -> None:
    """The orchestrator then reports the destroy under the older generation, the last that it knows."""
    # However late update and delete come, the destroy ends the deployment.
    lab.cloud.configure(phase_delays={"deploy": 250})
    round_ = lab.new()
    lab.order(round_)
    lab.cloud.wait_for("phase begun", round_.instance, phase="deploy")
    lab.cloud.configure(phase_delays={})
    lab.update(round_)
    lab.delete(round_)
    lab.ends(round_, None)
    assert lab.cloud.entries().phases(round_.instance) == {(1, "destroy"): 1}
    table.rows.append(Row("update, then delete, during deploy", 1, 1, lab.clean()))


# --- the database ----------------------------------------------------------------------------------------------------


def test_sqlite_is_locked_for_a_while(lab: Bench, table: Table) -> None:
    """Another writer holds the file for several leases, while one order is in progress and another arrives."""
    lab.cloud.configure(phase_delays={"deploy": 0.3})
    first, second = lab.new(), lab.new()
    lab.order(first)
    lab.cloud.wait_for("phase begun", first.instance, phase="deploy")
    with lab.database.write() as connection, concurrent.futures.ThreadPoolExecutor(1) as pool:
        connection.exec_driver_sql("UPDATE sm_flags SET value = value")
        ordered = pool.submit(lab.order, second)
        # Three leases: every lease expires. Python 3.13 audits time.sleep, which is forbidden inside a transaction.
        threading.Event().wait(2)
        connection.commit()
        ordered.result()
    for round_ in (first, second):
        lab.ends(round_, "active")
        lab.check(round_, CREATED)
    assert lab.manager.runs("web")
    assert lab.manager.runs("worker")
    lab.cloud.configure(phase_delays={})
    table.rows.append(Row("SQLite locked for three leases", 2, 2, lab.clean()))


@pytest.mark.postgres
def test_on_postgresql(tmp_path: Path, postgres_url: str, table: Table) -> None:
    """Every third touch, alone and beside another worker; then the database is unavailable while orders are in progress."""
    with bench(tmp_path, postgres_url) as lab:
        for name in SCENARIOS:
            kills = kill_at_every_touch(lab, "worker", name, stride=3)
            table.rows.append(
                Row(f"PostgreSQL: worker killed at every third step of {name}", kills, kills, lab.clean())
            )
        for name in ("create", "delete"):
            kills = kill_at_every_touch(lab, "worker", name, stride=4, beside=True)
            table.rows.append(Row(f"PostgreSQL: one of two workers killed in {name}", kills, kills, lab.clean()))
        _postgres_goes_away(lab, postgres_url, table)


def _postgres_goes_away(lab: Bench, url: str, table: Table) -> None:
    lab.cloud.configure(phase_delays={"deploy": 0.3})
    rounds = [lab.new() for _ in range(5)]
    for round_ in rounds:
        lab.order(round_)
    lab.cloud.wait_for("phase begun", rounds[0].instance, phase="deploy")
    name = sa.make_url(url).database
    lab.database.close()
    server = sa.create_engine(sa.make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        ended = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
        connection.execute(ended, {"name": name})
        time.sleep(2)
        connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    server.dispose()
    for round_ in rounds:
        lab.ends(round_, "active")
        lab.check(round_, CREATED)
    assert lab.manager.runs("web")
    assert lab.manager.runs("worker")
    lab.cloud.configure(phase_delays={})
    table.rows.append(Row("PostgreSQL away for three leases", len(rounds), len(rounds), lab.clean()))


@pytest.mark.parametrize("name", ["create", "delete"])
def test_one_of_two_workers_is_killed(lab: Bench, table: Table, name: str) -> None:
    kills = kill_at_every_touch(lab, "worker", name, stride=2, beside=True)
    assert kills > 0
    table.rows.append(Row(f"one of two workers killed in {name}", kills, kills, lab.clean()))
