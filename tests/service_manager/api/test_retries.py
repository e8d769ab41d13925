"""The retry of a failed instance: with the bundle that is published now, if its attributes fit."""

from __future__ import annotations

from typing import Any

import pytest

from archelon_api import service_manager as wire

from ..harness import MANIFEST
from .in_process_api import InProcessApi

OWNER = {"service_attributes": {**MANIFEST["service_attributes"], "demo.owner": "required"}}


@pytest.fixture
def failed(api: InProcessApi) -> str:
    """The path of an instance whose deploy failed with version 1."""
    api.publish_demo()
    path = api.order()
    api.place(path, "fail", failed="deploy", attempt=3)
    return path


def replace(api: InProcessApi, **changes: Any) -> str:
    """Publish version 2; returns the entry's path."""
    return api.publish_demo(version="2", **changes)


def digest(api: InProcessApi, entry: str) -> str:
    return str(api.attributes(entry, "provider")["org.archelon.bundle.digest"])


@pytest.mark.parametrize(
    ("phase", "restarted"),
    [("initialise", "initialise"), ("deploy", "deploy"), ("provision", "deploy"), ("update", "update")],
)
def test_a_retry_takes_the_published_bundle(api: InProcessApi, failed: str, phase: str, restarted: str) -> None:
    api.place(failed, "fail", failed=phase)
    entry = replace(api)
    assert api.act(failed, wire.RETRY).status == 200
    row, shown = api.row(failed), api.attributes(failed)
    assert (row["state"], row["digest"], row["phase_generation"]) == (restarted, digest(api, entry), 2)
    assert (shown[wire.STATE], shown[wire.BUNDLE_VERSION], shown["org.archelon.generation"]) == (restarted, "2", 2)


def test_an_update_takes_the_published_bundle(api: InProcessApi, failed: str) -> None:
    entry = replace(api, **OWNER)
    answer = api.ask("alice", "POST", failed, {"attributes": {"demo.size": 3}})
    assert (answer.status, "demo.owner is required" in answer.text) == (409, True)
    assert api.ask("alice", "POST", failed, {"attributes": {"demo.owner": "Alice"}}).status == 200
    row = api.row(failed)
    assert (row["state"], row["digest"], row["generation"], row["changed"]) == ("deploy", digest(api, entry), 2, 2)


def test_a_retry_that_does_not_fit_is_refused_and_may_keep_its_bundle(api: InProcessApi, failed: str) -> None:
    before = api.row(failed)
    replace(api, **OWNER)
    answer = api.act(failed, wire.RETRY)
    assert answer.status == 409
    assert "demo.owner is required" in answer.text
    assert api.row(failed) == before
    assert api.act(failed, wire.RETRY, {wire.RETRY_BUNDLE: "present"}).status == 200
    assert (api.row(failed)["state"], api.row(failed)["digest"]) == ("deploy", before["digest"])


def test_a_retry_names_no_value(api: InProcessApi) -> None:
    api.publish_demo()
    path = api.order(**{"demo.password": "swordfish"})
    api.place(path, "fail", failed="deploy")
    replace(api, service_attributes={"demo.password": {"type": "number", "secret": True}})
    answer = api.act(path, wire.RETRY)
    assert answer.status == 409
    assert "demo.password has to be a number" in answer.text
    assert "swordfish" not in answer.text


def test_a_retry_keeps_the_bundle_of_a_withdrawn_service_and_of_a_failed_destroy(
    api: InProcessApi, failed: str
) -> None:
    before = api.row(failed)["digest"]
    entry = replace(api)
    api.place(failed, "fail", failed="destroy", wanted="gone")
    assert api.act(failed, wire.RETRY).status == 200
    assert (api.row(failed)["state"], api.row(failed)["digest"]) == ("destroy", before)
    api.place(failed, "fail", failed="deploy", wanted="active")
    assert api.ask("provider", "DELETE", entry).status == 200
    assert api.act(failed, wire.RETRY).status == 200
    assert (api.row(failed)["state"], api.row(failed)["digest"]) == ("deploy", before)


def test_a_locked_instance_is_retried_with_its_own_bundle_only(api: InProcessApi, failed: str) -> None:
    before = api.row(failed)["digest"]
    replace(api)
    assert api.act(failed, wire.LOCK, {"org.archelon.lock": "update"}).status == 200
    answer = api.act(failed, wire.RETRY)
    assert (answer.status, "locked" in answer.text) == (409, True)
    assert api.act(failed, wire.RETRY, {wire.RETRY_BUNDLE: "present"}).status == 200
    assert (api.row(failed)["digest"], api.row(failed)["state"]) == (before, "deploy")
