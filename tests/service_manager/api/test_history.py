"""The record of an instance: its phases, after its end too, until its time is over; and the log lines that go with it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from archelon_api import service_manager as wire

from .desk import Desk, Keyed

PHASES = "org.archelon.record.phases"


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """A desk with the test service."""
    desk.publish_demo()
    return desk


def record_of(desk: Desk, path: str, who: str = "alice") -> dict[str, Any]:
    return desk.attributes(f"/record/{path.rpartition('/')[2]}", who)


def test_it_begins_with_the_order(desk: Desk) -> None:
    path = desk.order()
    record = record_of(desk, path)
    assert record["org.archelon.instance"] == path.rpartition("/")[2]
    assert record["org.archelon.service"].endswith("#demo")
    (phase,) = record[PHASES]
    assert (phase["phase"], phase["generation"], phase["outcome"]) == ("initialise", 1, "running")
    assert phase["start"] == record["org.archelon.record.created"]
    assert "org.archelon.record.ended" not in record


def test_it_outlives_its_instance_and_expires(desk: Desk) -> None:
    path = desk.order()
    desk.ask("alice", "DELETE", path)
    desk.place(path, "destroy", audit='[{"object": "stack main", "removed": true}]')
    desk.remove(path)
    assert desk.ask("alice", "GET", path).status == 404
    record = record_of(desk, path)
    assert record["org.archelon.record.ended"]
    assert record["org.archelon.record.audit"] == [{"object": "stack main", "removed": True}]
    desk.clock.ahead = 29 * 86400
    desk.work()
    assert record_of(desk, path)
    desk.clock.ahead = 31 * 86400
    desk.work()
    assert desk.ask("alice", "GET", f"/record/{path.rpartition('/')[2]}").status == 404


def test_every_phase_is_logged_in_hurtles_words(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "archelon.phases"):
        path = desk.order(**{"demo.password": "secret thing"})
        desk.clock.ahead = 2
        desk.place(path, "destroy")
        desk.remove(path)
    lines = [vars(each) for each in caplog.records if each.name == "archelon.phases"]
    start, end = lines
    assert (start["so_id"], start["so_phase"], start["phase_event"]) == (path.rpartition("/")[2], "initialise", "start")
    assert (start["sm_name"], start["tenant"]) == ("service-manager", end["tenant"])
    assert (end["so_phase"], end["phase_event"]) == ("destroy", "done")
    assert end["response_time"] >= 2
    assert "secret thing" not in caplog.text


def test_a_phase_that_is_tried_again_has_a_line_for_each(desk: Desk) -> None:
    path = desk.order()
    desk.place(path, "deploy")
    with desk.parts.database.write() as connection:
        instance = desk.parts.instances.find(connection, path.rpartition("/")[2])
        assert instance is not None
        desk.parts.history.begin(connection, instance, "deploy", desk.clock())
        desk.reconciler.gave_up(connection, Keyed(instance.id), "the disk is full")
    shown = desk.attributes(path)
    assert shown[wire.STATE] == "fail"
    assert shown[wire.STATE_MESSAGE] == "the disk is full"
    assert desk.act(path, wire.RETRY).status == 200
    *_, failed, again = record_of(desk, path)[PHASES]
    assert (failed["phase"], failed["outcome"], failed["message"]) == ("deploy", "failed", "the disk is full")
    assert (again["phase"], again["outcome"]) == ("deploy", "running")
