"""Rolls, step by step: which instance is next, what is left over, and how a roll is paused, resumed, stopped and superseded.

The test plays the reconciler: it puts the instance in progress into the state after its update.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon_api import names
from archelon_api import service_manager as wire
from service_manager.lifecycle.rollout import ROLL_TOPIC
from service_manager.store.instances import service_extras, show_state
from tests.occi_service.server.calls import Answer, path_of

from ..api.in_process_api import InProcessApi, Keyed, Template, identity_of

PROVIDER = "provider"


class Rolls:
    """A service with instances, and its rolls."""

    def __init__(self, api: InProcessApi) -> None:
        self.api = api
        self.entry = ""
        self.digest = ""

    def publish(self, version: str, **changes: Any) -> str:
        packed = self.api.bundle(f"demo-{version}", version=version, **changes)
        self.entry, self.digest = path_of(self.api.publish(packed)), packed.digest
        return self.entry

    def order(self, state: str, **columns: Any) -> str:
        """Order an instance that is in this state with the bundle that is published now."""
        path = self.api.order()
        self.place(path, state, **columns)
        return path

    def place(self, path: str, state: str, **columns: Any) -> None:
        row = self.api.row(path)
        settled = {"made": row["digest"], "applied": row["changed"], "failed": None}
        self.api.place(path, state, **{**settled, **columns})

    def feel(self, path: str, health: str) -> None:
        """Report an instance's health."""
        instances, instance = self.api.dependencies.instances, self.id(path)
        with self.api.dependencies.database.write() as connection:
            found = instances.find(connection, instance)
            assert found is not None
            entity = instances.entity(connection, found)
            assert entity is not None
            entity.attributes[wire.HEALTH] = health
            instances.save_entity(connection, found, entity)

    def act(self, action: Any, entry: str = "") -> Answer:
        return self.api.act(entry or self.entry, action, who=PROVIDER)

    def begin(self) -> None:
        assert self.act(wire.ROLL).status == 200
        self.work()

    def work(self) -> None:
        """Carry out the roll's work, as if it had just been polled."""
        self.api.clock.ahead += 1
        self.api.work(ROLL_TOPIC)

    def decide(self) -> tuple[Any, Any, Any]:
        """Return the handler, the work item, and the handler's decision."""
        api = self.api
        handler = api.handler(ROLL_TOPIC)
        item = Keyed(f"{identity_of(api, PROVIDER).tenant_id} {self.entry}")
        with api.dependencies.database.read() as connection:
            return handler, item, handler.step(handler.load(connection, item)).observed

    def shown(self, entry: str = "") -> dict[str, Any]:
        attributes = self.api.attributes(entry or self.entry, PROVIDER)
        prefix = names.attribute("roll.")
        return {name.removeprefix(prefix): each for name, each in attributes.items() if name.startswith(prefix)}

    def numbers(self, entry: str = "") -> tuple[Any, ...]:
        shown = self.shown(entry)
        return shown["state"], shown["total"], shown["done"], shown["left"]

    def offered(self, entry: str = "") -> set[str]:
        answer = self.api.ask(PROVIDER, "GET", entry or self.entry)
        return {each.rpartition("#")[2] for each in answer.json.get("actions", ())}

    def current(self, *paths: str) -> str | None:
        """Return the path of the instance in progress."""
        current = self.shown().get("current")
        return None if current is None else {self.id(path): path for path in paths}[current["instance"]]

    def id(self, path: str) -> str:
        return str(self.api.row(path)["id"])

    def reasons(self) -> dict[str, str]:
        return {each["instance"]: each["reason"] for each in self.shown()["leftovers"]}


@pytest.fixture
def rolls(tmp_path: Path, database_url: str) -> Iterator[Rolls]:
    """A service that has published version 1, over either database."""
    chosen = {} if database_url.startswith("sqlite") else {"database_url": database_url}
    (tmp_path / "template").mkdir()
    api = InProcessApi(tmp_path, Template(tmp_path / "template"), **chosen)
    made = Rolls(api)
    made.publish("1")
    yield made
    api.close()


def test_failed_and_unhealthy_instances_are_first_and_failed_ones_may_stay_failed(rolls: Rolls) -> None:
    healthy, degraded, down = (rolls.order("active") for _ in range(3))
    rolls.feel(degraded, "degraded")
    rolls.feel(down, "down")
    failed = [rolls.order("fail", failed="update"), rolls.order("fail", failed="provision")]
    paths = (healthy, degraded, down, *failed)
    rolls.publish("2")
    rolls.begin()
    first = rolls.current(*paths)
    assert first in failed
    assert rolls.api.row(first)["digest"] == rolls.digest
    # It fails again, for another reason: it is left over, on the new bundle.
    rolls.place(first, "fail", failed="update")
    rolls.work()
    assert rolls.numbers() == ("running", 5, 0, 1)
    second = rolls.current(*paths)
    assert second in failed
    assert second != first
    rolls.place(second, "active")
    for expected in (down, degraded, healthy):
        rolls.work()
        assert rolls.current(*paths) == expected
        assert rolls.offered() == {"pause", "stop"}
        rolls.place(expected, "active")
    rolls.work()
    assert rolls.numbers() == ("incomplete", 5, 4, 1)
    assert rolls.shown()["message"].startswith("left over: 1")
    assert rolls.offered() == {"roll"}
    assert list(rolls.reasons()) == [rolls.id(first)]
    assert "failed again" in rolls.reasons()[rolls.id(first)]
    assert {rolls.api.row(path)["digest"] for path in paths} == {rolls.digest}
    # The next roll tries it again, and counts nothing twice.
    rolls.begin()
    assert rolls.current(*paths) == first
    assert rolls.numbers() == ("running", 1, 0, 0)
    rolls.place(first, "fail", failed="update")
    rolls.work()
    assert rolls.numbers() == ("incomplete", 1, 0, 1)
    rolls.begin()
    rolls.place(first, "active")
    rolls.work()
    assert rolls.numbers() == ("done", 1, 1, 0)


def test_a_failed_instance_restarts_with_the_new_bundle_and_shows_it(rolls: Rolls) -> None:
    update, provision = rolls.order("fail", failed="update"), rolls.order("fail", failed="provision")
    rolls.publish("2")
    rolls.begin()
    rolls.place(str(rolls.current(update, provision)), "active")
    rolls.work()
    rolls.place(str(rolls.current(update, provision)), "active")
    for path, phase in ((update, "update"), (provision, "deploy")):
        phases = rolls.api.attributes(f"/record/{rolls.id(path)}")["org.archelon.record.phases"]
        assert (phases[-1]["phase"], phases[-1]["generation"]) == (phase, 2)
        assert rolls.api.attributes(path)[wire.BUNDLE_VERSION] == "2"
        assert rolls.api.row(path)["phase_generation"] == 2
    rolls.work()
    assert rolls.numbers() == ("done", 2, 2, 0)


def test_what_cannot_be_rolled_is_left_over_untouched(rolls: Rolls) -> None:
    undisposed = rolls.order("fail", failed="destroy", wanted="gone")
    unfit, failed_unfit = rolls.order("active"), rolls.order("fail", failed="update")
    going = rolls.order("destroy", wanted="gone")
    rows = [rolls.api.row(path) for path in (undisposed, unfit, failed_unfit, going)]
    attributes = {"demo.size": {"type": "number", "default": 1}, "demo.owner": "required"}
    rolls.publish("2", service_attributes=attributes)
    rolls.begin()
    assert rolls.numbers() == ("incomplete", 3, 0, 3)
    assert [rolls.api.row(path) for path in (undisposed, unfit, failed_unfit, going)] == rows
    reasons = rolls.reasons()
    assert "disposal" in reasons[rolls.id(undisposed)]
    for path in (unfit, failed_unfit):
        assert "demo.owner is required" in reasons[rolls.id(path)]
    # Its tenant brings one of them to the bundle, and the next roll begins anew.
    assert rolls.api.ask("alice", "POST", unfit, {"attributes": {"demo.owner": "Alice"}}).status == 200
    rolls.place(unfit, "active")
    rolls.begin()
    assert rolls.numbers() == ("running", 3, 0, 2)
    rolls.place(unfit, "active")
    rolls.work()
    assert rolls.numbers() == ("incomplete", 3, 1, 2)
    rolls.api.remove(undisposed)


def test_a_new_attribute_with_a_default_is_added(rolls: Rolls) -> None:
    path = rolls.order("active")
    rolls.publish("2", service_attributes={"demo.colour": {"default": "blue"}})
    rolls.begin()
    assert rolls.api.attributes(path)["demo.colour"] == "blue"


def test_an_instance_that_worked_is_returned_and_the_roll_ends(rolls: Rolls) -> None:
    paths = [rolls.order("active"), rolls.order("active")]
    before = rolls.digest
    rolls.publish("2")
    rolls.begin()
    present = str(rolls.current(*paths))
    rolls.place(present, "fail", failed="update")
    rolls.work()
    assert rolls.numbers() == ("failed", 2, 0, 1)
    assert rolls.id(present) in rolls.shown()["message"]
    assert "rolled back" in rolls.reasons()[rolls.id(present)]
    assert {rolls.api.row(path)["digest"] for path in paths} == {before}
    assert rolls.api.attributes(present)[wire.STATE] == "update"
    assert rolls.api.attributes(present)[wire.BUNDLE_VERSION] == "1"
    assert rolls.offered() == {"roll"}


def test_a_paused_roll_finishes_its_instance_and_begins_no_other(rolls: Rolls) -> None:
    paths = [rolls.order("active"), rolls.order("active")]
    rolls.publish("2")
    rolls.begin()
    present = str(rolls.current(*paths))
    for _ in range(2):
        assert rolls.act(wire.PAUSE_ROLL).status == 200
    assert rolls.offered() == {"resume", "stop"}
    assert rolls.act(wire.ROLL).status == 409
    rolls.place(present, "active")
    for _ in range(2):
        rolls.work()
        assert rolls.numbers() == ("paused", 2, 1, 0)
        assert rolls.current(*paths) is None
    assert rolls.act(wire.RESUME_ROLL).status == 200
    rolls.work()
    assert rolls.current(*paths) in set(paths) - {present}
    assert rolls.numbers() == ("running", 2, 1, 0)


def test_a_stopped_roll_finishes_its_instance_and_may_begin_again(rolls: Rolls) -> None:
    paths = [rolls.order("active"), rolls.order("active")]
    rolls.publish("2")
    assert rolls.offered() == {"roll"}
    for action in (wire.PAUSE_ROLL, wire.RESUME_ROLL, wire.STOP_ROLL):
        answer = rolls.act(action)
        assert answer.status == 409
        assert "has not been rolled" in answer.text
    rolls.begin()
    present = str(rolls.current(*paths))
    assert rolls.act(wire.STOP_ROLL).status == 200
    assert rolls.offered() == {"roll"}
    assert rolls.act(wire.PAUSE_ROLL).status == 409
    rolls.place(present, "fail", failed="update")
    rolls.work()
    # It worked before, so it is returned.
    assert rolls.numbers() == ("stopped", 2, 0, 1)
    assert rolls.current(*paths) is None
    rolls.place(present, "active")
    rolls.begin()
    assert rolls.numbers() == ("running", 2, 0, 0)


def test_another_publication_supersedes_a_roll(rolls: Rolls) -> None:
    paths = [rolls.order("active"), rolls.order("active")]
    second = rolls.publish("2")
    rolls.begin()
    present = str(rolls.current(*paths))
    rolls.place(present, "update")
    third = rolls.publish("3")
    assert rolls.shown(second)["state"] == "superseded"
    assert third in rolls.shown(second)["message"]
    assert rolls.offered(second) == set()
    rolls.begin()
    rolls.work()
    # The instance that the earlier roll has begun is not ready for another change.
    other = rolls.current(*paths)
    assert other in set(paths) - {present}
    rolls.place(str(other), "active")
    rolls.work()
    assert rolls.current(*paths) is None
    assert rolls.numbers() == ("running", 2, 1, 0)
    rolls.place(present, "active")
    rolls.work()
    assert rolls.current(*paths) == present
    assert rolls.numbers(second)[0] == "superseded"


def test_a_withdrawal_ends_a_roll(rolls: Rolls) -> None:
    paths = [rolls.order("active"), rolls.order("active")]
    entry = rolls.publish("2")
    rolls.begin()
    present = str(rolls.current(*paths))
    assert rolls.api.ask(PROVIDER, "DELETE", entry).status == 200
    rolls.place(present, "active")
    rolls.work()
    assert rolls.numbers() == ("stopped", 2, 1, 0)
    assert "withdrawn" in rolls.shown()["message"]
    assert rolls.offered() == set()
    assert rolls.act(wire.PAUSE_ROLL).status == 409


@pytest.mark.parametrize("between", ["pause", "stop", "publish", "delete"])
def test_a_decision_is_dropped_if_something_has_changed_since(rolls: Rolls, between: str) -> None:
    path = rolls.order("active")
    entry = rolls.publish("2")
    assert rolls.act(wire.ROLL).status == 200
    handler, item, decided = rolls.decide()
    if between == "publish":
        rolls.publish("3")
    elif between == "delete":
        assert rolls.api.ask("alice", "DELETE", path).status == 200
    else:
        assert rolls.act({"pause": wire.PAUSE_ROLL, "stop": wire.STOP_ROLL}[between]).status == 200
    before = rolls.api.row(path)
    with rolls.api.dependencies.database.write() as connection:
        handler.save(connection, item, decided)
    assert rolls.api.row(path) == before
    assert "current" not in rolls.shown(entry)


def test_a_repeated_write_counts_once(rolls: Rolls) -> None:
    """A database that disconnects during a commit leaves the outcome unknown, so the worker writes again."""
    rolls.order("fail", failed="destroy", wanted="gone")
    rolls.publish("2")
    assert rolls.act(wire.ROLL).status == 200
    handler, item, decided = rolls.decide()
    for _ in range(2):
        with rolls.api.dependencies.database.write() as connection:
            handler.save(connection, item, decided)
    assert rolls.numbers() == ("running", 1, 0, 1)


def test_a_roll_of_an_earlier_release_continues(rolls: Rolls) -> None:
    path = rolls.order("active")
    entry = rolls.publish("2")
    assert rolls.act(wire.ROLL).status == 200
    registry, row = rolls.api.dependencies.registry, rolls.api.row(path)
    with rolls.api.dependencies.database.write() as connection:
        extras = service_extras(connection, row["tenant"])
        entity = registry.get_resource(entry, extras)
        for name in (wire.ROLL_TOTAL, wire.ROLL_DONE, wire.ROLL_LEFT, wire.ROLL_LEFTOVERS):
            del entity.attributes[name]
        entity.attributes[wire.ROLL_STATE] = f"running: instance {row['id']}, from {'0' * 64}"
        registry.save(entry, entity, extras)
    rolls.work()
    rolls.place(path, "active")
    rolls.work()
    assert rolls.numbers() == ("done", 1, 1, 0)


@pytest.mark.parametrize(("who", "is_shown"), [("alice", True), ("bob", False)])
def test_a_provider_reads_only_of_its_own_tenants_instances_why_they_failed(
    rolls: Rolls, who: str, is_shown: bool
) -> None:
    paths = [rolls.api.order(who), rolls.api.order(who)]
    fail(rolls, paths[0], who, "destroy")
    fail(rolls, paths[1], who, "update")
    rolls.publish("2")
    rolls.begin()
    fail(rolls, paths[1], who, "update")
    rolls.work()
    shown = rolls.shown()
    assert ("tiger" in str(shown)) is is_shown
    assert shown["left"] == 2
    assert ("update failed" in str(shown), "destroy failed" in str(shown)) == (not is_shown, not is_shown)


def test_an_instance_that_is_locked_against_updates_is_left_over(rolls: Rolls) -> None:
    path, other = rolls.order("active"), rolls.order("active")
    assert rolls.api.act(path, wire.LOCK, {names.attribute("lock"): "update"}).status == 200
    assert rolls.api.act(other, wire.LOCK, {names.attribute("lock"): "delete"}).status == 200
    before = rolls.api.row(path)["digest"]
    rolls.publish("2")
    rolls.begin()
    rolls.place(other, "active")
    rolls.work()
    assert rolls.shown()["state"] == "incomplete"
    assert list(rolls.reasons()) == [rolls.id(path)]
    assert "locked" in rolls.reasons()[rolls.id(path)]
    assert rolls.api.row(path)["digest"] == before


def test_a_lock_that_comes_after_the_decision_counts(rolls: Rolls) -> None:
    path = rolls.order("active")
    rolls.publish("2")
    assert rolls.act(wire.ROLL).status == 200
    handler, item, observed = rolls.decide()
    assert rolls.api.act(path, wire.LOCK, {names.attribute("lock"): "update"}).status == 200
    with rolls.api.dependencies.database.write() as connection:
        handler.save(connection, item, observed)
    assert rolls.api.row(path)["digest"] != rolls.digest
    rolls.work()
    assert "locked" in rolls.reasons()[rolls.id(path)]


def fail(rolls: Rolls, path: str, who: str, phase: str) -> None:
    """Let a phase of a user's instance fail, with a message that quotes a node."""
    instances, instance = rolls.api.dependencies.instances, rolls.api.row(path, who)["id"]
    with rolls.api.dependencies.database.write() as connection:
        found = instances.find(connection, instance)
        assert found is not None
        entity = instances.entity(connection, found)
        assert entity is not None
        show_state(entity, "fail", "exited with status 1; its last output: password=tiger")
        instances.save_entity(connection, found, entity)
        instances.change(connection, found.id, {"state": "fail", "failed": phase})
