"""kill -9 of every process between a tenant and a stack, in every phase: the orders recover, and Heat keeps nothing of them.

An all-in-one has a real Heat as its second region. A life is the lifecycle of two concurrent orders. In each phase, one victim is
killed as soon as Heat works on a stack of one of the orders (an orchestrator: on its own); the other order is in any state. The
test bed's services are restarted by the test, Archelon's processes by their supervisor. The result is checked from outside: in
the attributes that the tenant sees, and in Heat.

Each life starts with another victim and continues with the next, so seven lives cover every victim in every phase. Without
ARCHELON_TEST_CRASH_ROUNDS there are two, in which every victim and every phase occurs.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import heatclient.exc
import keystoneauth1.exceptions
import pytest

import bundles
from archelon.all_in_one import AllInOne
from archelon.demo.remains import left
from archelon.demo.stage import Stage
from archelon.service import await_entry, offer
from archelon.state_directory import StateDirectory
from archelon_api import service_manager as wire
from cloud_controller.platforms.heat.orders import instance_tag
from occi_service import client
from tests.conftest import missing
from tests.openstack import OpenStack
from tests.tables import Tables
from tests.thoroughness import ROUNDS
from tests.waiting import until

from .harness import first_port
from .heat_system import add_region, heat_client, ours

pytestmark = pytest.mark.crash

SERVICES: Final = ("service-manager-web", "service-manager-worker", "cloud-controller-web", "cloud-controller-worker")
BED: Final = ("heat", "mariadbd")
VICTIMS: Final = ("orchestrator", *BED, *SERVICES)
PHASES: Final = ("deploy", "provision", "update", "destroy")
#: Index in VICTIMS of each life's first victim.
LIVES: Final = range(len(VICTIMS)) if ROUNDS > 1 else (0, 4)
ORDERS: Final = 2
#: Seconds in which a phase has to finish.
TIMEOUT: Final = 240.0
#: Seconds after which the request for a stalled stack is repeated.
STALLED: Final = 8.0
TYPE: Final = "http://schemas.example.org/occi/sm#slow"

MANIFEST = f"""
service_type: {TYPE}
service_attributes: {{slow.text: {{}}, slow.said: {{mutability: immutable}}}}
resources: {{RegionOne: {{deployment: made.yaml, provision: configured.yaml}}}}
"""
TEMPLATE = """
heat_template_version: 2018-08-31
parameters: {{slow.text: {{type: string}}}}
resources:
  slow:
    type: OS::Heat::TestResource
    properties: {{value: {value}, action_wait_secs: {{create: 3, update: 3, delete: 3}}}}
outputs: {{slow.said: {{value: {{get_attr: [slow, output]}}}}}}
"""
MADE = TEMPLATE.format(value="made")
CONFIGURED = TEMPLATE.format(value="{get_param: slow.text}")


@dataclasses.dataclass(frozen=True)
class Row:
    """One kill.

    Attributes:
        seconds: from the kill until the last order is right.
        stacks: number of Archelon's stacks in Heat at that time.
    """

    victim: str
    phase: str
    seconds: float
    stacks: int


class System:
    """The all-in-one with a Heat region, and the measurements."""

    def __init__(self, state: StateDirectory, openstack: OpenStack) -> None:
        self.state = state
        self.openstack = openstack
        self.all = AllInOne(state, lambda _line: None)
        self.stage = Stage(state, self.all, show=lambda _line: None)
        self.heat = heat_client(openstack)
        self.before = frozenset(each.id for each in ours(self.heat))
        self.rows: list[Row] = []

    def publish(self, directory: Path) -> None:
        directory.mkdir()
        for name, text in (("manifest", MANIFEST), ("made", MADE), ("configured", CONFIGURED)):
            (directory / f"{name}.yaml").write_text(text)
        connection = self.stage.connection("provider")
        with connection.open() as manager:
            offer(manager, bundles.Bundle.load(directory).pack())
            await_entry(connection, TYPE)

    def kill(self, victim: str) -> None:
        """Kill a service; restart it if it is the test bed's."""
        if victim in SERVICES:
            self.all.supervisor.kill(victim)
            return
        bed = self.openstack.bed
        if bed is None:
            missing("an OpenStack whose services may be killed", command="OS_CLOUD= make test-all")
        assert bed is not None
        bed.kill(victim)
        bed.up()

    def text(self) -> str:
        """The table."""
        lines = [f"  {'victim':<24} {'phase':<10} {'recovered after':>15}   stacks of {ORDERS} orders"]
        lines += [f"  {row.victim:<24} {row.phase:<10} {row.seconds:>13.1f} s   {row.stacks}" for row in self.rows]
        return "\n".join(lines)


class Order:
    """An order as its tenant and Heat see it."""

    def __init__(self, system: System, text: str) -> None:
        self._system = system
        self._manager = system.stage.connection("tenant").open()
        self._text = text
        self.path = self._manager.create(TYPE, {"slow.text": text})
        self._instance = str(self._manager.get(self.path).attributes["org.archelon.instance"])

    def close(self) -> None:
        self._manager.close()

    def change(self, text: str) -> None:
        self._text = text
        self._manager.update(self.path, {"slow.text": text})

    def delete(self) -> None:
        self._manager.delete(self.path)

    def states(self) -> list[str]:
        """States of its stacks in Heat, or the error if Heat cannot be called."""
        try:
            return [each.stack_status for each in self._system.heat.stacks.list(tags=instance_tag(self._instance))]
        except (heatclient.exc.HTTPException, keystoneauth1.exceptions.ClientException) as error:
            return [f"Heat cannot be called: {error}"]

    def orchestrator(self) -> int | None:
        """Process id of its orchestrator."""
        return next((each.pid for each in self._system.stage.nodes(self._instance) if each.is_orchestrator), None)

    def wrong(self, state: str | None) -> str:
        """What is wrong with the order in this expected state (None: gone); empty if nothing is."""
        stacks = self.states()
        try:
            shown = self._manager.get(self.path).attributes
        except client.NotFoundError:
            return f"it is gone, with the stacks {stacks}" if state is not None or stacks else ""
        except (client.UnavailableError, client.TransportError) as error:
            return f"it cannot be read: {error}"
        message = f"{self.path} is in {shown[wire.STATE]} ({shown.get(wire.STATE_MESSAGE)}), with the stacks {stacks}"
        if shown[wire.STATE] == "fail":
            pytest.fail(message)
        if shown[wire.STATE] != state:
            return message
        one = len(stacks) == 1 and stacks[0].endswith("_COMPLETE")
        return (
            ""
            if one and shown.get("slow.said") == self._text
            else f"{message}, with slow.said {shown.get('slow.said')}"
        )

    def ended(self, phase: str) -> float:
        """When a phase ended, in seconds since the epoch; for `destroy`, when the whole order did."""
        record = self._manager.get(f"/record/{self._instance}").attributes
        if phase == "destroy":
            return _seconds(record["org.archelon.record.ended"])
        last = [each for each in record["org.archelon.record.phases"] if each["phase"] == phase][-1]
        assert last["outcome"] == "done", last
        return _seconds(last["start"]) + float(last["duration"])


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


class Life:
    """The lifecycle of concurrent orders.

    Args:
        victims: by phase.
    """

    def __init__(self, system: System, victims: Mapping[str, str]) -> None:
        self._system = system
        self._victims = victims
        self._killed: dict[str, float] = {}
        self.orders = [Order(system, f"first {number}") for number in range(ORDERS)]

    def close(self) -> None:
        for each in self.orders:
            each.close()

    def strike(self, phase: str, doing: str) -> None:
        """Kill the victim during the phase; each orchestrator is killed when Heat works on its own stack."""
        victim = self._victims[phase]
        waiting = list(self.orders)

        def in_progress() -> Order | None:
            return next((each for each in waiting if each.states() == [f"{doing}_IN_PROGRESS"]), None)

        while waiting:
            order = until(in_progress, f"Heat works on a stack in {phase}", seconds=TIMEOUT)
            self._killed.setdefault(phase, time.time())
            if victim != "orchestrator":
                self._system.kill(victim)
                return
            # One process may have served several, and starts again.
            pid = until(order.orchestrator, f"{order.path} has an orchestrator to kill", seconds=TIMEOUT)
            os.kill(pid, signal.SIGKILL)
            waiting.remove(order)

    def end(self, state: str | None, *phases: str) -> None:
        """Wait until all orders are right, and record how long the phases took from the kill."""

        def wrong() -> str:
            return "; ".join(filter(None, [each.wrong(state) for each in self.orders]))

        try:
            until(lambda: not wrong(), f"{' and '.join(phases)} end right", seconds=TIMEOUT, pause=0.2)
        except AssertionError as error:
            killed = ", ".join(self._victims[phase] for phase in phases)
            pytest.fail(f"{error}, with kill -9 of {killed}: {wrong()}")
        stacks = [each for each in ours(self._system.heat) if each.id not in self._system.before]
        for phase in phases:
            took = max(each.ended(phase) for each in self.orders) - self._killed[phase]
            self._system.rows.append(Row(self._victims[phase], phase, took, len(stacks)))
        assert len(stacks) == (0 if state is None else ORDERS), stacks


@pytest.fixture(scope="module")
def system(openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory, tables: Tables) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("crash") / "state"
    add_region(openstack, directory, stalled=STALLED)
    state = StateDirectory(directory)
    with state.locked():
        state.make(host="127.0.0.1", first_port=first_port())
        made = System(state, openstack)
        try:
            made.all.up(timeout=120.0)
            made.publish(directory.parent / "slow")
            yield made
        finally:
            made.stage.close()
            unended = made.all.down()
            tables.add(made.text())
    assert unended == []


@pytest.mark.parametrize("begin", LIVES)
def test_orders_recover_whichever_process_is_killed(system: System, begin: int) -> None:
    life = Life(system, {phase: VICTIMS[(begin + place) % len(VICTIMS)] for place, phase in enumerate(PHASES)})
    try:
        life.strike("deploy", "CREATE")
        life.strike("provision", "UPDATE")
        life.end("active", "deploy", "provision")
        for number, order in enumerate(life.orders):
            order.change(f"changed {number}")
        life.strike("update", "UPDATE")
        life.end("active", "update")
        for order in life.orders:
            order.delete()
        life.strike("destroy", "DELETE")
        life.end(None, "destroy")
        until(lambda: left(system.state) == [], "no process, port or row is left", seconds=TIMEOUT)
    finally:
        life.close()
