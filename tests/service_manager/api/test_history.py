"""Records of instances: their phases, also after the instance's end, until they expire; and the log of the phases."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from archelon_api import service_manager as wire
from service_manager.lifecycle.history import Edits

from .in_process_api import InProcessApi, Keyed

PHASES = "org.archelon.record.phases"


@pytest.fixture
def api(api: InProcessApi) -> InProcessApi:
    """The in-process client, with the test service published."""
    api.publish_demo()
    return api


def record_of(api: InProcessApi, path: str, who: str = "alice") -> dict[str, Any]:
    return api.attributes(f"/record/{path.rpartition('/')[2]}", who)


def test_it_begins_with_the_order(api: InProcessApi) -> None:
    path = api.order()
    record = record_of(api, path)
    assert record["org.archelon.instance"] == path.rpartition("/")[2]
    assert record["org.archelon.service"].endswith("#demo")
    (phase,) = record[PHASES]
    assert (phase["phase"], phase["generation"], phase["outcome"]) == ("initialise", 1, "running")
    assert phase["start"] == record["org.archelon.record.created"]
    assert "org.archelon.record.ended" not in record


def test_it_outlives_its_instance_and_expires(api: InProcessApi) -> None:
    path = api.order()
    api.ask("alice", "DELETE", path)
    api.place(path, "destroy", audit='[{"object": "stack main", "removed": true}]')
    api.remove(path)
    assert api.ask("alice", "GET", path).status == 404
    record = record_of(api, path)
    assert record["org.archelon.record.ended"]
    assert record["org.archelon.record.audit"] == [{"object": "stack main", "removed": True}]
    api.clock.ahead = 29 * 86400
    api.work()
    assert record_of(api, path)
    api.clock.ahead = 31 * 86400
    api.work()
    assert api.ask("alice", "GET", f"/record/{path.rpartition('/')[2]}").status == 404


def test_every_phase_is_logged_with_hurtles_fields(api: InProcessApi, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "archelon.phases"):
        path = api.order(**{"demo.password": "secret thing"})
        api.clock.ahead = 2
        api.place(path, "destroy")
        api.remove(path)
    lines = [vars(each) for each in caplog.records if each.name == "archelon.phases"]
    start, end = lines
    assert (start["so_id"], start["so_phase"], start["phase_event"]) == (path.rpartition("/")[2], "initialise", "start")
    assert (start["sm_name"], start["tenant"]) == ("service-manager", end["tenant"])
    assert (end["so_phase"], end["phase_event"]) == ("destroy", "done")
    assert end["response_time"] >= 2
    assert "secret thing" not in caplog.text


def test_each_attempt_of_a_retried_phase_has_an_entry(api: InProcessApi) -> None:
    path = api.order()
    api.place(path, "deploy")
    with api.dependencies.database.write() as connection:
        instance = api.dependencies.instances.find(connection, path.rpartition("/")[2])
        assert instance is not None
        edits: Edits = []
        api.dependencies.history.begin(edits, instance, "deploy", api.clock())
        api.dependencies.history.write(connection, instance, edits)
        api.reconciler.gave_up(connection, Keyed(instance.id), "the disk is full")
    shown = api.attributes(path)
    assert shown[wire.STATE] == "fail"
    assert shown[wire.STATE_MESSAGE] == "the disk is full"
    assert api.act(path, wire.RETRY).status == 200
    *_, failed, again = record_of(api, path)[PHASES]
    assert (failed["phase"], failed["outcome"], failed["message"]) == ("deploy", "failed", "the disk is full")
    assert (again["phase"], again["outcome"]) == ("deploy", "running")
