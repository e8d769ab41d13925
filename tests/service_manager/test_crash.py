"""kill -9 at every step of every order: it ends where it should, nothing happens twice, and nothing is left over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from .crash_bench import Bench, Round, Row, Table, bench

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("ARCHELON_CRASH_ROUNDS", "1"))
#: More touches than any order has.
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
#: name: (state before, what is done, phases carried out when it is done)
SCENARIOS: Mapping[str, tuple[str | None, Act, Mapping[tuple[int, str], int]]] = {
    "create": (None, create, CREATED),
    "update": ("active", update, {**CREATED, (2, "update"): 1}),
    "stop": ("active", stop, {**CREATED, (2, "stop"): 1}),
    "start": ("inactive", start, {**CREATED, (2, "stop"): 1, (3, "start"): 1}),
    "delete": ("active", delete, {**CREATED, (1, "destroy"): 1}),
}


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    made = Table()
    yield made
    print("\n" + made.text())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory: Path = tmp_path_factory.mktemp("crash")
    with bench(directory, f"sqlite:///{directory}/state.db") as made:
        yield made


def new(lab: Bench, before: str | None) -> Round:
    return lab.new(active=before == "active", inactive=before == "inactive")


def kill_at_every_touch(lab: Bench, victim: str, name: str, *, stride: int = 1, beside: bool = False) -> int:
    """Carry a scenario out again and again, killing at the first touch, the second…, until it ends without one.

    Args:
        stride: touches between two kills.
        beside: whether another worker runs as well, and takes over at once.
    """
    before, act, phases = SCENARIOS[name]
    kills = 0
    for touch in range(1, _MOST, stride):
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
    return kills


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("victim", ["worker", "web"])
def test_killed_at_every_step(lab: Bench, table: Table, victim: str, name: str) -> None:
    kills = 0
    for _ in range(ROUNDS):
        kills += kill_at_every_touch(lab, victim, name)
    assert kills >= 4 * ROUNDS
    table.rows.append(Row(f"{victim} killed at every step of {name}", kills, kills, lab.clean()))
