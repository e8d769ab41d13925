"""The planner: every state's next step and, by simulation, that every order reaches its end."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_api import service_manager as wire
from service_manager.lifecycle.planner import (
    Activate,
    Await,
    Dismiss,
    Dispose,
    Enter,
    ForgetApplication,
    GiveUp,
    MakeApplication,
    Remove,
    Rest,
    RetryPolicy,
    SendPhase,
    Step,
    TryAgain,
    plan,
)
from service_manager.store.snapshot import LEGAL_MOVES, Snapshot, WantedState

POLICIES = {state: RetryPolicy(timeout=100, retries=1) for state in wire.STATES}
UP = Snapshot("v1", made="v1", boots=1, activated=1, applied=1, state="active")


def step(seen: Snapshot, now: float = 0.0) -> Step:
    return plan(seen, POLICIES, now)


def test_a_new_order_begins_with_its_application() -> None:
    assert step(Snapshot("v1")) == MakeApplication()


def test_it_then_awaits_the_orchestrator() -> None:
    assert step(Snapshot("v1", made="v1")) == Await(100, application=True)


@pytest.mark.parametrize(
    ("state", "following"),
    [("deploy", "provision"), ("provision", "active"), ("update", "active"), ("stop", "inactive"), ("start", "active")],
)
def test_a_phase_is_sent_awaited_and_left(state: str, following: str) -> None:
    seen = dataclasses.replace(UP, state=state)
    assert step(seen) == SendPhase(state)
    seen = dataclasses.replace(seen, sent=1)
    assert step(seen) == Await(100, application=True)
    assert step(dataclasses.replace(seen, outcome="done")) == Enter(following)


def test_a_restarted_orchestrator_is_activated_and_sent_the_phase_again() -> None:
    seen = dataclasses.replace(UP, state="deploy", sent=1, boots=2)
    assert step(seen) == Activate()
    assert step(dataclasses.replace(seen, activated=2)) == SendPhase("deploy")


def test_an_active_instance_rests_until_a_change() -> None:
    assert step(UP) == Rest()
    assert step(dataclasses.replace(UP, changed=2, generation=2)) == Enter("update")
    assert step(dataclasses.replace(UP, digest="v2")) == Enter("update")
    assert step(dataclasses.replace(UP, wanted=WantedState.INACTIVE)) == Enter("stop")
    assert step(dataclasses.replace(UP, boots=2)) == Activate()


def test_a_failure_is_retried_and_then_final_with_its_reason() -> None:
    seen = dataclasses.replace(UP, state="deploy", sent=1, outcome="failed", outcome_message="quota")
    assert step(seen, 5) == TryAgain(6, "quota")
    assert step(dataclasses.replace(seen, attempt=1), 5) == GiveUp("deploy", "quota")


def test_what_no_retry_cures_is_final_at_once_except_for_the_removal() -> None:
    seen = dataclasses.replace(UP, state="deploy", sent=1, outcome="refused", outcome_message="no such flavour")
    assert step(seen, 5) == GiveUp("deploy", "no such flavour")
    leaving = dataclasses.replace(seen, state="destroy", wanted=WantedState.GONE, dependencies=1)
    assert step(leaving, 5) == TryAgain(6, "no such flavour")


def test_a_phase_that_times_out_names_what_was_missing() -> None:
    waiting = dataclasses.replace(UP, state="deploy", sent=1, attempt=1)
    assert step(waiting, 100) == GiveUp(
        "deploy", "deploy took longer than 100 s; the orchestrator did not report an outcome"
    )
    down = Snapshot("v1", made="v1", attempt=1)
    assert step(down, 100) == GiveUp("initialise", "initialise took longer than 100 s; the orchestrator did not start")


@pytest.mark.parametrize("state", [state for state in wire.STATES if state not in ("destroy", "fail")])
def test_a_delete_overtakes_every_phase(state: str) -> None:
    assert step(dataclasses.replace(UP, state=state, wanted=WantedState.GONE)) == Enter("destroy")


def test_destroy_asks_the_orchestrator_then_disposal_then_removes() -> None:
    seen = dataclasses.replace(UP, state="destroy", wanted=WantedState.GONE)
    assert step(seen) == Dismiss()
    assert step(dataclasses.replace(seen, sent=1)) == Await(100, application=True)
    assert step(dataclasses.replace(seen, sent=1, outcome="done")) == Dispose()
    assert step(dataclasses.replace(seen, disposal="asked")) == Dispose()
    assert step(dataclasses.replace(seen, disposal="again")) == Dispose()
    assert step(dataclasses.replace(seen, disposal="done")) == Remove()


def test_an_orchestrator_that_cannot_dispose_is_skipped_unless_it_has_dependencies() -> None:
    seen = dataclasses.replace(
        UP, state="destroy", wanted=WantedState.GONE, sent=1, outcome="failed", outcome_message="no", attempt=1
    )
    assert step(seen) == Dispose()
    assert step(dataclasses.replace(seen, dependencies=1)) == GiveUp("destroy", "no")


def test_a_failed_disposal_is_retried_and_then_final() -> None:
    seen = dataclasses.replace(
        UP, state="destroy", wanted=WantedState.GONE, disposal="failed", outcome_message="a volume is in use"
    )
    assert step(seen, 5) == TryAgain(6, "a volume is in use")
    assert step(dataclasses.replace(seen, attempt=1), 5) == GiveUp("destroy", "a volume is in use")
    hanging = dataclasses.replace(seen, disposal="asked", attempt=1, outcome_message="")
    assert step(hanging, 99) == Dispose()
    assert step(hanging, 100) == GiveUp("destroy", "disposal took longer than 100 s")


def test_another_bundle_is_sent_to_the_orchestrator_that_runs_it() -> None:
    seen = dataclasses.replace(UP, state="update", digest="v2")
    assert step(seen) == ForgetApplication()
    forgotten = dataclasses.replace(seen, made=None, boots=0, activated=-1)
    assert step(forgotten) == MakeApplication()
    assert step(dataclasses.replace(forgotten, made="v2")) == Await(100, application=True)
    assert step(dataclasses.replace(forgotten, made="v2", boots=1)) == Activate()


def test_dependencies_are_disposed_of_by_an_orchestrator_even_if_its_application_is_gone() -> None:
    seen = dataclasses.replace(UP, state="destroy", wanted=WantedState.GONE, made=None, boots=0, activated=-1)
    assert step(seen) == Dispose()
    assert step(dataclasses.replace(seen, dependencies=1)) == MakeApplication()
    assert step(dataclasses.replace(seen, dependencies=1, made="v1")) == Await(100, application=True)


def test_every_state_has_legal_moves() -> None:
    for state in wire.STATES:
        assert "delete" in LEGAL_MOVES[state]


class Simulation:
    """Applies steps to a snapshot as the reconciler does, with an orchestrator that obeys, restarts or fails on request."""

    def __init__(self) -> None:
        self.seen: Snapshot | None = Snapshot("v1")
        self.now = 0.0
        self.sent: list[str] = []

    def change(self, **columns: object) -> None:
        assert self.seen is not None
        self.seen = dataclasses.replace(self.seen, **columns)  # type: ignore[arg-type]

    def iterate(self, obey: bool) -> Step:
        seen = self.seen
        assert seen is not None
        taken = plan(seen, POLICIES, self.now)
        if isinstance(taken, MakeApplication):
            self.change(made=seen.digest)
        elif isinstance(taken, ForgetApplication):
            self.change(made=None, boots=0, activated=-1 if seen.activated else 0, sent=0)
        elif isinstance(taken, Activate):
            self.change(activated=seen.boots)
        elif isinstance(taken, SendPhase | Dismiss):
            self.sent.append(seen.state)
            self.change(sent=seen.boots)
        elif isinstance(taken, Dispose):
            self.change(disposal="done" if seen.disposal else "asked")
        elif isinstance(taken, Remove):
            self.seen = None
        elif isinstance(taken, Enter):
            applied = seen.phase_generation if seen.outcome and seen.state in ("deploy", "update") else seen.applied
            self.change(
                state=taken.state,
                applied=applied,
                attempt=0,
                sent=0,
                outcome=None,
                retry_at=None,
                begun=self.now,
                phase_generation=seen.generation,
            )
        elif isinstance(taken, TryAgain):
            self.change(attempt=seen.attempt + 1, retry_at=taken.at, begun=taken.at, sent=0, outcome=None)
        elif isinstance(taken, GiveUp):
            self.change(state="fail", failed=taken.phase)
        elif isinstance(taken, Await):
            if seen.boots == 0 and seen.made and obey:
                self.change(boots=1)
            elif seen.sent and obey:
                self.change(outcome="done")
            else:
                self.now = max(self.now + 1, taken.until if not obey else self.now)
        return taken

    def take(self) -> None:
        """Start an orchestrator that takes its order: all steps that need no call are taken in its request."""
        assert self.seen is not None
        self.change(boots=self.seen.boots + 1)
        while isinstance(plan(self.seen, POLICIES, self.now), Enter | Activate | SendPhase | Dismiss):
            self.iterate(obey=True)


def settle(simulation: Simulation, limit: int = 200) -> None:
    for _ in range(limit):
        if simulation.seen is None or isinstance(simulation.iterate(obey=True), Rest):
            return
    raise AssertionError(f"never at rest: {simulation.seen}")


EVENTS = st.sampled_from(
    ["iterate", "iterate", "iterate", "idle", "restart", "take", "fail", "update", "stop", "start", "roll"]
)


@given(events=st.lists(EVENTS, max_size=40), end=st.sampled_from(["active", "inactive", "gone"]))
def test_every_order_reaches_its_end_whatever_happens(events: list[str], end: str) -> None:
    simulation = Simulation()
    for event in events:
        assert simulation.seen is not None
        seen = simulation.seen
        if event in ("iterate", "idle"):
            simulation.iterate(obey=event == "iterate")
        elif event == "restart" and seen.boots:
            simulation.change(boots=seen.boots + 1)
        elif event == "take" and seen.made:
            simulation.take()
        elif event == "fail" and seen.sent:
            simulation.change(outcome="failed", outcome_message="a fault")
        elif event == "update":
            simulation.change(generation=seen.generation + 1, changed=seen.generation + 1)
        elif event == "roll":
            simulation.change(digest=f"v{seen.generation}", generation=seen.generation + 1)
        elif event in ("stop", "start") and event in LEGAL_MOVES[seen.state]:
            wanted = WantedState.INACTIVE if event == "stop" else WantedState.ACTIVE
            simulation.change(wanted=wanted, generation=seen.generation + 1)
    assert simulation.seen is not None
    simulation.change(wanted=WantedState(end))
    # Reset waiting times and failures: this is about the result in the end.
    simulation.change(begun=simulation.now, attempt=0)
    if simulation.seen.state == "fail":
        simulation.change(
            state=simulation.seen.failed, attempt=0, outcome=None, begun=simulation.now, retry_at=None, sent=0
        )
    settle(simulation)
    if end == "gone":
        assert simulation.seen is None
    else:
        assert simulation.seen is not None
        assert simulation.seen.state == end
        assert simulation.seen.made == simulation.seen.digest or end == "inactive"
        assert simulation.seen.applied >= simulation.seen.changed or end == "inactive"
