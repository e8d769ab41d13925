"""kill -9 during each operation on a composed service: whichever process is killed, the guestbook ends in the right state.

All tests share one all-in-one. For each victim, a guestbook with a store goes through four operations (create, scale under load,
update, dispose), and the victim is killed once during each, as soon as the operation is seen to have begun. The result is checked
from outside: at the web endpoint, in the machine's processes, in the databases.

Another test kills the orchestrator at moments that polling could not hit: after it received an event and before it acted, and
after it acted and before it acknowledged. Each event takes effect once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3

import bundles
from archelon.all_in_one import AllInOne
from archelon.demo.remains import left
from archelon.demo.stage import RunningNode, Stage
from archelon.service import await_entry, offer
from archelon.state_directory import StateDirectory
from occi_service import client
from tests.tables import Tables
from tests.thoroughness import ROUNDS, STRIDE
from tests.waiting import until

from .harness import ROOT, first_port

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

SERVICES: Final = ("service-manager-web", "service-manager-worker", "cloud-controller-web", "cloud-controller-worker")
ORCHESTRATORS: Final = ("guestbook", "store")
FUSED_BUNDLE: Final = Path(__file__).parent / "fused"
#: Seconds for an operation with a kill: two leases, and the operation's own duration.
TIMEOUT: Final = 60.0
#: Seconds between polls of the web endpoint, which count as visits: few enough to keep the guestbook from being busy.
POLL_INTERVAL: Final = 0.25
BUSY: Final = 6
ENTRY: Final = "Written before the kills"
_STATE: Final = "mcn.service.state"
_WEB: Final = ".web."
FUSED_TYPE: Final = "http://schemas.archelon.org/occi/service#fused"


@dataclasses.dataclass(frozen=True)
class Row:
    """One kill.

    Attributes:
        seconds: from the kill to the right state.
    """

    victim: str
    moment: str
    seconds: float
    left: str


class _AllInOneWithFuses(AllInOne):
    """An all-in-one whose tenants' processes see an additional directory, with the fuse files."""

    def __init__(self, state: StateDirectory, fuses: Path) -> None:
        super().__init__(state, lambda _line: None)
        self._fuses = fuses

    def _cloud_controller(self) -> Mapping[str, Any]:
        settings = super()._cloud_controller()
        region = settings["regions"]["local"]
        region["settings"] = {**region["settings"], "writable": [str(self._fuses)]}
        return settings


class System:
    """The all-in-one with the published services, and the measurements."""

    def __init__(self, state: StateDirectory) -> None:
        self.state = state
        self.fuses = state.path.parent / "fuses"
        self.fuses.mkdir()
        # Orchestrators run as another user.
        self.fuses.chmod(0o777)
        self.all = _AllInOneWithFuses(state, self.fuses)
        self.stage = Stage(state, self.all, show=lambda _line: None)
        self.rows: list[Row] = []

    def publish(self) -> None:
        connection = self.stage.connection("provider")
        with connection.open() as manager:
            for directory in (*[ROOT / "orchestrators" / name for name in ("store", "guestbook")], FUSED_BUNDLE):
                bundle = bundles.Bundle.load(directory)
                offer(manager, bundle.pack())
                await_entry(connection, bundle.manifest.type)

    def query(self, statement: str, *values: str, service: str = "service-manager") -> list[tuple[Any, ...]]:
        """Query a service's database directly."""
        database = self.state.path / f"{service}.db"
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(statement, values).fetchall()

    def text(self) -> str:
        """The table."""
        lines = [f"  {'victim':<24} {'moment':<8} {'recovered after':>15}   left over"]
        lines += [f"  {row.victim:<24} {row.moment:<8} {row.seconds:>13.1f} s   {row.left}" for row in self.rows]
        return "\n".join(lines)


class Life:
    """The lifecycle of one guestbook, and its victim."""

    def __init__(self, system: System, victim: str) -> None:
        self.system = system
        self.victim = victim
        self.title = f"Of {victim}"
        self.nodes = 1
        self.path = self.url = self.instance = self.store = ""
        self._manager = system.stage.connection("tenant").open()

    def close(self) -> None:
        self._manager.close()

    def clear(self) -> None:
        """Remove what a failed test has left."""
        if self.path and self._manager.exists(self.path):
            self._manager.delete(self.path)
            until(lambda: not self.remaining(), f"{self.path} is cleared away", seconds=TIMEOUT)

    # operations -------------------------------------------------------------------------------------------------------

    def order(self) -> None:
        attributes = {"guestbook.title": self.title, "guestbook.busy": BUSY}
        self.path = self._manager.create("http://schemas.archelon.org/occi/service#guestbook", attributes)
        self.instance = str(self.system.query("SELECT id FROM sm_instances WHERE path = ?", self.path)[0][0])

    def update(self) -> None:
        self.title = f"Changed, {self.victim}"
        self._manager.update(self.path, {"guestbook.title": self.title})

    def dispose(self) -> None:
        self._manager.delete(self.path)

    # observations -----------------------------------------------------------------------------------------------------

    def state_of(self, instance: str) -> str:
        rows = self.system.query("SELECT state FROM sm_instances WHERE id = ?", instance)
        return str(rows[0][0]) if rows else "gone"

    def deploying(self) -> bool:
        """Whether the deploy phase has begun and the store is ordered; and, if the victim is an orchestrator, it runs."""
        stores = self.system.query("SELECT id FROM sm_instances WHERE service LIKE '%#store'")
        if stores:
            self.store = str(stores[0][0])
        begun = bool(stores) and self.state_of(self.instance) == "deploy"
        return begun and (self.victim not in ORCHESTRATORS or self.orchestrator() is not None)

    def updating(self) -> bool:
        return self.state_of(self.instance) == "update"

    def firing(self) -> bool:
        """Whether the alarm fires, by the cloud controller's database."""
        rows = self.system.query(
            "SELECT kept FROM cloud_objects WHERE instance = ? AND path LIKE '%alarm%' AND kept LIKE '%\"firing\"%'",
            self.instance,
            service="cloud-controller",
        )
        return bool(rows)

    def disposing(self) -> bool:
        """Whether the instance is being destroyed, or its store if the store's orchestrator is the victim."""
        return self.state_of(self.store if self.victim == "store" else self.instance) == "destroy"

    def processes(self, instance: str) -> list[RunningNode]:
        return self.system.stage.nodes(instance)

    def webs(self) -> list[RunningNode]:
        return [each for each in self.processes(self.instance) if _WEB in each.process and each.pid is not None]

    def orchestrator(self) -> int | None:
        """Process id of the victim, if it is an orchestrator."""
        instance = self.store if self.victim == "store" else self.instance
        return next((each.pid for each in self.processes(instance) if each.is_orchestrator), None)

    def problems(self) -> list[str]:
        """What is wrong with the guestbook; empty if nothing is."""
        try:
            shown = self._manager.get(self.path).attributes
        except client.ClientError as error:
            return [f"it cannot be read: {error}"]
        if shown.get(_STATE) != "active":
            return [f"it is in {shown.get(_STATE)}: {shown.get('mcn.service.state.message')}"]
        endpoints = str(shown.get("guestbook.endpoints")).count(":")
        if (len(self.webs()), endpoints) != (self.nodes, self.nodes):
            return [f"{len(self.webs())} nodes run and {endpoints} are shown, not {self.nodes}"]
        self.url = str(shown.get("guestbook.url"))
        status, text = self.system.stage.web("GET", self.url, quiet=True)
        missing = [wanted for wanted in (self.title, ENTRY) if wanted not in text]
        return [f"its page, {status}, does not contain {' and '.join(missing)}"] if status != 200 or missing else []

    def sign(self) -> list[str]:
        """Write the entry once the guestbook is active; returns the reason if it was not written."""
        try:
            shown = self._manager.get(self.path).attributes
        except (client.UnavailableError, client.TransportError) as error:
            return [str(error)]
        if shown.get(_STATE) == "fail":
            pytest.fail(f"{self.path} failed: {shown.get('mcn.service.state.message')}")
        if shown.get(_STATE) != "active":
            return [f"it is in {shown.get(_STATE)}"]
        status, text = self.system.stage.web("POST", str(shown["guestbook.url"]), f"entry={ENTRY}", quiet=True)
        return [] if status == 303 else [f"it takes no entry: {status} {text}"]

    def remaining(self) -> list[str]:
        """What is left of the guestbook after its disposal."""
        try:
            if self._manager.exists(self.path):
                return [f"it is in {self.state_of(self.instance)}"]
        except (client.UnavailableError, client.TransportError) as error:
            return [str(error)]
        return left(self.system.state)

    def phases(self) -> list[Mapping[str, Any]]:
        """The phases in its history."""
        found: list[Mapping[str, Any]] = self._manager.get(f"/record/{self.instance}").attributes[
            "org.archelon.record.phases"
        ]
        return found

    # the kill ---------------------------------------------------------------------------------------------------------

    def kill(self) -> tuple[float, Callable[[], bool]]:
        """Kill the victim; returns the time (seconds since the epoch) and a function: whether the victim was replaced."""
        if self.victim in SERVICES:
            supervisor = self.system.all.supervisor
            pid = supervisor.kill(self.victim)
            return time.time(), lambda: supervisor.pid(self.victim) != pid
        victim = self.orchestrator()
        assert victim is not None, "there is no orchestrator to kill"
        os.kill(victim, signal.SIGKILL)
        return time.time(), lambda: self.orchestrator() not in (None, victim)

    def survives(
        self, moment: str, begun: Callable[[], bool], ended: Callable[[], list[str]], *, phases: tuple[str, ...]
    ) -> None:
        """Kill the victim as soon as the operation has begun, and wait for the right state.

        Args:
            phases: phases of the history during which the kill has to have happened.
        """
        # Polled often, because the operation may be short.
        until(begun, f"{moment} begins", seconds=TIMEOUT, pause=0.005)
        at, back = self.kill()
        try:
            until(
                lambda: not ended(),
                f"{moment} ends right after kill -9 of {self.victim}",
                seconds=TIMEOUT,
                pause=POLL_INTERVAL,
            )
        except AssertionError as error:
            problems = ended()
            self.system.rows.append(Row(self.victim, moment, TIMEOUT, "; ".join(problems)[:120]))
            pytest.fail(f"{error}: {'; '.join(problems)}")
        took = time.time() - at
        if phases:
            carried_out = [each for each in self.phases() if each["phase"] in phases]
            first, last = (datetime.datetime.fromisoformat(each["start"]) for each in (carried_out[0], carried_out[-1]))
            end = last.timestamp() + float(carried_out[-1]["duration"])
            # Times in the history may be whole seconds.
            assert first.timestamp() - 1 <= at <= end + 1, f"the kill at {at} was not within {moment}: {carried_out}"
        if moment != "dispose" or self.victim in SERVICES:
            until(back, f"{self.victim} is back", seconds=TIMEOUT)
        self.system.rows.append(Row(self.victim, moment, took, "nothing" if moment == "dispose" else "–"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, tables: Tables) -> Iterator[System]:
    state = StateDirectory(tmp_path_factory.mktemp("composed") / "state")
    with state.locked():
        state.make(host="127.0.0.1", first_port=first_port())
        made = System(state)
        try:
            made.all.up()
            made.publish()
            yield made
        finally:
            made.stage.close()
            unended = made.all.down()
            tables.add(made.text())
    assert unended == []


@pytest.mark.parametrize("victim", [*SERVICES, *ORCHESTRATORS][::STRIDE])
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_guestbook_recovers_whichever_process_is_killed(system: System, victim: str, round_: int) -> None:
    life = Life(system, victim)
    try:
        life.order()
        life.survives("create", life.deploying, life.sign, phases=("deploy",))
        assert life.problems() == []

        life.nodes = 2
        with _visitors(life) as leave:

            def grown() -> list[str]:
                if len(life.webs()) > 1:
                    leave.set()
                return life.problems()

            life.survives("scale", life.firing, grown, phases=())

        life.update()
        # There have to be two nodes still: an alarm that is delivered twice adds one node.
        life.survives("update", life.updating, life.problems, phases=("update",))

        life.dispose()
        life.survives("dispose", life.disposing, life.remaining, phases=("destroy",))
        assert system.stage.web("GET", life.url, quiet=True)[0] == 0
    finally:
        life.clear()
        life.close()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_an_event_takes_effect_once_whenever_its_orchestrator_is_killed(system: System, round_: int) -> None:
    fuses = {
        event: [system.fuses / f"{event}-{moment}" for moment in ("taken", "worked-off")] for event in ("alarm", "act")
    }
    for each in fuses["alarm"]:
        each.touch()
    with system.stage.connection("tenant").open() as manager:
        path = manager.create(FUSED_TYPE, {"fused.directory": str(system.fuses)})
        instance = str(system.query("SELECT id FROM sm_instances WHERE path = ?", path)[0][0])

        def nodes() -> int:
            return sum(_WEB in each.process and each.pid is not None for each in system.stage.nodes(instance))

        def settled(grown: int, event: str) -> bool:
            """Whether all fuses are burnt, the service has scaled as often as expected, and no notification is pending."""
            notices = system.query(
                "SELECT event FROM cloud_notices WHERE instance = ?", instance, service="cloud-controller"
            )
            waiting = [*notices, *system.query("SELECT id FROM sm_invocations WHERE instance = ?", instance)]
            shown = manager.get(path).attributes
            burnt = not any(each.exists() for each in fuses[event])
            return burnt and not waiting and (shown.get("fused.grown"), nodes()) == (grown, grown + 1)

        try:
            until(lambda: settled(1, "alarm"), "the alarm takes effect once", seconds=2 * TIMEOUT)
            for each in fuses["act"]:
                each.touch()
            manager.act(path, f"{FUSED_TYPE.replace('#', '/')}/action#grow")
            until(lambda: settled(2, "act"), "the action takes effect once", seconds=2 * TIMEOUT)
        finally:
            manager.delete(path)
            until(lambda: not manager.exists(path), f"{path} is gone", seconds=TIMEOUT)


@contextlib.contextmanager
def _visitors(life: Life) -> Iterator[threading.Event]:
    """A visitor whose requests make the guestbook busy, until the event is set."""
    leave = threading.Event()

    def visit() -> None:
        with urllib3.PoolManager(retries=False, timeout=5.0) as http:
            while not leave.wait(0.03):
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    http.request("GET", life.url)

    visitor = threading.Thread(target=visit, daemon=True)
    visitor.start()
    try:
        yield leave
    finally:
        leave.set()
        visitor.join(timeout=10.0)
