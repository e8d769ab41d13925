"""The bundle guestbook: composition and an alarm."""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from dataclasses import replace
from typing import Any

import pytest

import sdk
from sdk import testing

from .bundles import GUESTBOOK, READY, STORE, Platform, order

TYPE = "http://schemas.archelon.org/occi/service#store"
SHOWN = {"store.endpoint": "http://127.0.0.1:2", "store.password": "s3cret"}
OUTPUTS = {"guestbook.url": "http://127.0.0.1:1/", "guestbook.endpoints": "127.0.0.1:1"}
FRESH = testing.State(offers={TYPE: SHOWN}, makes={"guestbook": OUTPUTS})


def provisioned(context: testing.Context) -> testing.State:
    return context.run("provision", context.run("deploy", FRESH))


def test_a_store_is_ordered_and_its_attributes_reach_the_web_tier() -> None:
    after = testing.Context(GUESTBOOK).run("deploy", FRESH)
    assert (after.outcome, after.message) == ("done", "")
    assert [each.type for each in after.suppliers] == [TYPE]
    assert after.stack("guestbook").parameters == {"guestbook.title": "Guestbook", **SHOWN}
    # The tenant sees the guestbook's own outputs; the store's password is the store's.
    assert after.attributes == OUTPUTS


def test_a_tenants_own_store_is_bound_and_none_is_ordered() -> None:
    context = testing.Context(GUESTBOOK)
    ordered = context.run("deploy", FRESH)
    foreign = "00000000-0000-4000-8000-00000000000f"
    refused = context.run("deploy", replace(FRESH, parameters={"guestbook.store": foreign}))
    assert refused.outcome == "failed"
    url = f"http://cloud/{urllib.parse.quote(TYPE, safe='')}/store/{foreign}"
    assert f"no instance of {TYPE} at {url}" in refused.message
    assert ordered.suppliers
    assert refused.suppliers == ()


def test_a_failed_store_fails_the_guestbook_with_its_reason() -> None:
    after = testing.Context(GUESTBOOK).run("deploy", replace(FRESH, fails={TYPE: "the disk is full"}))
    assert (after.outcome, after.message) == ("failed", f"{TYPE} has failed: the disk is full")
    assert after.stacks == ()


def test_without_a_store_in_the_catalogue_the_phase_fails_with_a_remedy() -> None:
    after = testing.Context(GUESTBOOK).run("deploy", testing.State())
    assert after.message == f"the catalogue names no service {TYPE}; publish it, then retry"


def test_provision_sets_the_alarm() -> None:
    assert provisioned(testing.Context(GUESTBOOK)).alarms == ("busy",)


def test_the_alarm_scales_within_the_templates_bounds() -> None:
    context = testing.Context(GUESTBOOK)
    state = replace(provisioned(context), bounds={"web": (1, 2)})
    counts = []
    for _ in range(3):
        state = context.run(sdk.Alarm("busy", value=30.0), state)
        counts.append(state.stack("guestbook").counts)
    assert counts == [{"web": 2}, {"web": 2}, {"web": 2}]
    assert state.outcome == ""


def test_another_alarm_and_the_end_of_one_change_nothing() -> None:
    context = testing.Context(GUESTBOOK)
    state = provisioned(context)
    for event in (sdk.Alarm("hungry"), sdk.Alarm("busy", firing=False)):
        assert context.run(event, state).stack("guestbook").counts == {}


def test_the_manual_shows_a_test_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(READY.parent)
    manual = (READY.parent / "docs" / "sdk.md").read_text()
    (example,) = [each for each in re.findall(r"```python\n(.*?)```", manual, re.DOTALL) if "def test_" in each]
    names: dict[str, Any] = {}
    exec(example, names)
    names["test_it_grows_when_it_is_busy"]()


def test_destroy_removes_the_guestbook_and_its_store() -> None:
    context = testing.Context(GUESTBOOK)
    after = context.run("destroy", provisioned(context))
    assert (after.outcome, after.stacks, after.suppliers) == ("done", (), ())


def test_entries_are_kept_in_the_store_on_the_local_platform(platform: Platform) -> None:
    store = platform.settle(order(STORE, {"store.password": "s3cret", "store.limit": 100}))
    endpoint = store.outputs["store.endpoint"]
    parameters = {"guestbook.title": "Visitors", "store.endpoint": endpoint, "store.password": "s3cret"}
    guestbook = platform.settle(order(GUESTBOOK, parameters, counts={"web": 2}))
    first, second = [f"http://{each}/" for each in guestbook.outputs["guestbook.endpoints"].split(",")]
    for text in ("hello <i>", "again"):
        form = urllib.parse.urlencode({"entry": text}).encode()
        with urllib.request.urlopen(first, form, timeout=60) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(second, timeout=60) as answer:
        assert "<ul><li>again</li><li>hello &lt;i&gt;</li></ul>" in answer.read().decode()
    with urllib.request.urlopen(first + "metrics", timeout=60) as answer:
        assert float(answer.read().split()[-1]) >= 0


def test_its_health_is_that_of_its_stacks_at_every_change() -> None:
    context = testing.Context(GUESTBOOK)
    before = provisioned(context)
    assert before.health == "healthy"
    down = replace(before.stack("guestbook"), health="down", health_message="web.0: killed by SIGKILL")
    after = context.run(sdk.Event("stack", "/stack/1", {}), replace(before, stacks=[down]))
    assert (after.health, after.health_message) == ("down", "web.0: killed by SIGKILL")
    well = replace(down, health="healthy", health_message="")
    after = context.run(sdk.Event("stack", "/stack/1", {}), replace(before, stacks=[well]))
    assert (after.health, after.health_message) == ("healthy", "")


def test_it_is_down_without_the_store_that_it_is_bound_to() -> None:
    context = testing.Context(GUESTBOOK)
    foreign = "00000000-0000-4000-8000-00000000000f"
    before = replace(provisioned(context), parameters={"guestbook.store": foreign}, suppliers=())
    after = context.run(sdk.Event("stack", "/stack/1", {}), before)
    assert (after.health, after.health_message) == ("down", f"its supplier {foreign} is gone")


def test_a_failed_update_still_reports_what_stands() -> None:
    context = testing.Context(GUESTBOOK)
    before = provisioned(context)
    after = context.run("update", replace(before, generation=2, fails={"guestbook": "no port is left"}))
    assert (after.outcome, after.attributes) == ("failed", OUTPUTS)
    assert after.health == "healthy"
