"""kill -9 in the middle of what a tenant asks for, with everything composed: whoever dies, the guestbook ends right.

One all-in-one for all. For each victim a guestbook, which has a store of its own, lives through four moments (it is created, it
grows under load, it is updated, it is disposed of), and at each the victim is killed once, as soon as the moment is seen to have
begun. What is right is looked for from outside: at the web endpoint, at the machine's processes, in the databases.

And one that dies where nobody could kill it by looking: over an event, when it has it and has done nothing yet, and when it has
done all and nobody knows. Each event has its effect once.
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
from archelon.demo.stage import Node, Stage
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
FUSED: Final = Path(__file__).parent / "fused"
#: Seconds within which an order has to end right, a kill in the middle of it included: two leases, and what the order takes.
PATIENCE: Final = 60.0
#: Seconds between two looks at the web endpoint, which are visits too: fewer than make the guestbook busy.
LOOK: Final = 0.25
BUSY: Final = 6
ENTRY: Final = "Written before the kills"
_STATE: Final = "mcn.service.state"
_WEB: Final = ".web."
FUSED_TYPE: Final = "http://schemas.archelon.org/occi/service#fused"


@dataclasses.dataclass(frozen=True)
class Row:
    """One kill.

    Attributes:
        seconds: from the kill to the right end.
    """

    victim: str
    moment: str
    seconds: float
    left: str


class _WithFuses(AllInOne):
    """An all-in-one whose tenants' processes see one directory more, from where they are told when to die."""

    def __init__(self, state: StateDirectory, fuses: Path) -> None:
        super().__init__(state, lambda _line: None)
        self._fuses = fuses

    def _cloud_controller(self) -> Mapping[str, Any]:
        settings = super()._cloud_controller()
        region = settings["regions"]["local"]
        region["settings"] = {**region["settings"], "writable": [str(self._fuses)]}
        return settings


class System:
    """The all-in-one, the two services published, and what was measured."""

    def __init__(self, state: StateDirectory) -> None:
        self.state = state
        self.fuses = state.path.parent / "fuses"
        self.fuses.mkdir()
        # An orchestrator is another user's process.
        self.fuses.chmod(0o777)
        self.all = _WithFuses(state, self.fuses)
        self.stage = Stage(state, self.all, show=lambda _line: None)
        self.rows: list[Row] = []

    def publish(self) -> None:
        connection = self.stage.connection("provider")
        with connection.open() as manager:
            for directory in (*[ROOT / "orchestrators" / name for name in ("store", "guestbook")], FUSED):
                bundle = bundles.Bundle.load(directory)
                offer(manager, bundle.pack())
                await_entry(connection, bundle.manifest.type)

    def asked(self, statement: str, *values: str, service: str = "service-manager") -> list[tuple[Any, ...]]:
        """What a database says, past its service."""
        database = self.state.path / f"{service}.db"
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(statement, values).fetchall()

    def text(self) -> str:
        """The table."""
        lines = [f"  {'victim':<24} {'moment':<8} {'right end after':>15}   left over"]
        lines += [f"  {row.victim:<24} {row.moment:<8} {row.seconds:>13.1f} s   {row.left}" for row in self.rows]
        return "\n".join(lines)


class Life:
    """One guestbook, from its order to its end, and its victim."""

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
        """Take away what a failure has left: the next life begins alone."""
        if self.path and self._manager.exists(self.path):
            self._manager.delete(self.path)
            until(lambda: not self.remaining(), f"{self.path} is cleared away", seconds=PATIENCE)

    # what is asked for ------------------------------------------------------------------------------------------------

    def order(self) -> None:
        attributes = {"guestbook.title": self.title, "guestbook.busy": BUSY}
        self.path = self._manager.create("http://schemas.archelon.org/occi/service#guestbook", attributes)
        self.instance = str(self.system.asked("SELECT id FROM sm_instances WHERE path = ?", self.path)[0][0])

    def update(self) -> None:
        self.title = f"Changed, {self.victim}"
        self._manager.update(self.path, {"guestbook.title": self.title})

    def dispose(self) -> None:
        self._manager.delete(self.path)

    # what is looked at ------------------------------------------------------------------------------------------------

    def state_of(self, instance: str) -> str:
        rows = self.system.asked("SELECT state FROM sm_instances WHERE id = ?", instance)
        return str(rows[0][0]) if rows else "gone"

    def deploying(self) -> bool:
        """Its deploy phase is under way, and its store is ordered; an orchestrator that is meant lives."""
        stores = self.system.asked("SELECT id FROM sm_instances WHERE service LIKE '%#store'")
        if stores:
            self.store = str(stores[0][0])
        begun = bool(stores) and self.state_of(self.instance) == "deploy"
        return begun and (self.victim not in ORCHESTRATORS or self.orchestrator() is not None)

    def updating(self) -> bool:
        return self.state_of(self.instance) == "update"

    def firing(self) -> bool:
        """The alarm fires, as the cloud controller's database says, and the node that it asks for does not run yet."""
        rows = self.system.asked(
            "SELECT kept FROM cloud_objects WHERE instance = ? AND path LIKE '%alarm%' AND kept LIKE '%\"firing\"%'",
            self.instance,
            service="cloud-controller",
        )
        return bool(rows)

    def disposing(self) -> bool:
        """DELETE is being carried out; where the store's orchestrator is meant, on the store."""
        return self.state_of(self.store if self.victim == "store" else self.instance) == "destroy"

    def processes(self, instance: str) -> list[Node]:
        return self.system.stage.nodes(instance)

    def webs(self) -> list[Node]:
        return [each for each in self.processes(self.instance) if _WEB in each.process and each.pid is not None]

    def orchestrator(self) -> int | None:
        """The victim's process, where it is an orchestrator."""
        meant = self.store if self.victim == "store" else self.instance
        return next((each.pid for each in self.processes(meant) if each.is_orchestrator), None)

    def wrong(self) -> list[str]:
        """What is not as it should be, of a guestbook that is to be there; empty where all is."""
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
        return [f"its page, {status}, does not say {' and '.join(missing)}"] if status != 200 or missing else []

    def unsigned(self) -> list[str]:
        """Write the entry, once there is where to write it; why it is not written, or empty."""
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
        """What is left of it after its end."""
        try:
            if self._manager.exists(self.path):
                return [f"it is in {self.state_of(self.instance)}"]
        except (client.UnavailableError, client.TransportError) as error:
            return [str(error)]
        return left(self.system.state)

    def phases(self) -> list[Mapping[str, Any]]:
        """Its history."""
        found: list[Mapping[str, Any]] = self._manager.get(f"/record/{self.instance}").attributes[
            "org.archelon.record.phases"
        ]
        return found

    # the kill ---------------------------------------------------------------------------------------------------------

    def kill(self) -> tuple[float, Callable[[], bool]]:
        """Kill the victim; when (seconds since the epoch), and what says that another has come in its place."""
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
        """Kill as soon as the moment has begun, and await the right end.

        Args:
            phases: in the midst of which the kill has to have come, as the history says.
        """
        # Without a pause worth the name: what has begun may be over soon.
        until(begun, f"{moment} begins", seconds=PATIENCE, pause=0.005)
        at, back = self.kill()
        try:
            until(
                lambda: not ended(), f"{moment} ends right after kill -9 of {self.victim}", seconds=PATIENCE, pause=LOOK
            )
        except AssertionError as error:
            wrong = ended()
            self.system.rows.append(Row(self.victim, moment, PATIENCE, "; ".join(wrong)[:120]))
            pytest.fail(f"{error}: {'; '.join(wrong)}")
        took = time.time() - at
        if phases:
            carried_out = [each for each in self.phases() if each["phase"] in phases]
            first, last = (datetime.datetime.fromisoformat(each["start"]) for each in (carried_out[0], carried_out[-1]))
            end = last.timestamp() + float(carried_out[-1]["duration"])
            # The history's times are whole seconds, or finer.
            assert first.timestamp() - 1 <= at <= end + 1, f"the kill at {at} was not within {moment}: {carried_out}"
        if moment != "dispose" or self.victim in SERVICES:
            until(back, f"{self.victim} is back", seconds=PATIENCE)
        self.system.rows.append(Row(self.victim, moment, took, "nothing" if moment == "dispose" else "–"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, tables: Tables) -> Iterator[System]:
    state = StateDirectory(tmp_path_factory.mktemp("composed") / "state")
    with state.held():
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
def test_a_guestbook_ends_right_whoever_dies(system: System, victim: str, round_: int) -> None:
    life = Life(system, victim)
    try:
        life.order()
        life.survives("create", life.deploying, life.unsigned, phases=("deploy",))
        assert life.wrong() == []

        life.nodes = 2
        with _visitors(life) as leave:

            def grown() -> list[str]:
                if len(life.webs()) > 1:
                    leave.set()
                return life.wrong()

            life.survives("scale", life.firing, grown, phases=())

        life.update()
        # Right after the update is still two nodes: an alarm that is told twice adds one node.
        life.survives("update", life.updating, life.wrong, phases=("update",))

        life.dispose()
        life.survives("dispose", life.disposing, life.remaining, phases=("destroy",))
        assert system.stage.web("GET", life.url, quiet=True)[0] == 0
    finally:
        life.clear()
        life.close()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_an_event_has_its_effect_once_whenever_its_orchestrator_dies(system: System, round_: int) -> None:
    fuses = {
        event: [system.fuses / f"{event}-{moment}" for moment in ("taken", "worked-off")] for event in ("alarm", "act")
    }
    for each in fuses["alarm"]:
        each.touch()
    with system.stage.connection("tenant").open() as manager:
        path = manager.create(FUSED_TYPE, {"fused.directory": str(system.fuses)})
        instance = str(system.asked("SELECT id FROM sm_instances WHERE path = ?", path)[0][0])

        def nodes() -> int:
            return sum(_WEB in each.process and each.pid is not None for each in system.stage.nodes(instance))

        def settled(grown: int, event: str) -> bool:
            """All fuses are burnt, as often as asked it has grown, and nothing more is to be told."""
            told = system.asked(
                "SELECT event FROM cloud_notices WHERE instance = ?", instance, service="cloud-controller"
            )
            waiting = [*told, *system.asked("SELECT id FROM sm_invocations WHERE instance = ?", instance)]
            shown = manager.get(path).attributes
            burnt = not any(each.exists() for each in fuses[event])
            return burnt and not waiting and (shown.get("fused.grown"), nodes()) == (grown, grown + 1)

        try:
            until(lambda: settled(1, "alarm"), "the alarm has its effect, once", seconds=2 * PATIENCE)
            for each in fuses["act"]:
                each.touch()
            manager.act(path, f"{FUSED_TYPE.replace('#', '/')}/action#grow")
            until(lambda: settled(2, "act"), "the action has its effect, once", seconds=2 * PATIENCE)
        finally:
            manager.delete(path)
            until(lambda: not manager.exists(path), f"{path} is gone", seconds=PATIENCE)


@contextlib.contextmanager
def _visitors(life: Life) -> Iterator[threading.Event]:
    """A visitor who comes again and again until told to leave: more often than the guestbook calls busy."""
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
