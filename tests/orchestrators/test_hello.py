"""The bundle hello: a manifest and a template."""

from __future__ import annotations

import urllib.request

import sdk
from sdk import testing

from .bundles import HELLO, Platform, order

URL = {"hello.url": "http://127.0.0.1:1/"}


def test_an_order_becomes_a_stack_whose_outputs_are_attributes() -> None:
    after = testing.Context(HELLO).run("deploy", testing.State(makes={"hello": URL}))
    assert after.outcome == "done"
    assert after.stacks == (testing.Stack("hello", outputs=URL, parameters={"hello.greeting": "Hello"}),)
    assert after.attributes == URL


def test_an_update_reaches_the_stack() -> None:
    context = testing.Context(HELLO)
    first = context.run("deploy", testing.State(makes={"hello": URL}))
    ordered = testing.State(parameters={"hello.greeting": "Moin"}, stacks=first.stacks, generation=2, phase="provision")
    after = context.run("update", ordered)
    assert after.stack("hello").parameters == {"hello.greeting": "Moin"}
    assert after.stack("hello").state == "UPDATE_COMPLETE"


def test_it_stops_starts_and_is_removed() -> None:
    context = testing.Context(HELLO)
    provisioned = testing.State(stacks=[testing.Stack("hello", outputs=URL)], phase="provision")
    assert context.run("stop", provisioned).stack("hello").state == "SUSPEND_COMPLETE"
    assert context.run("start", provisioned).stack("hello").state == "RESUME_COMPLETE"
    gone = context.run("destroy", provisioned)
    assert (gone.outcome, gone.stacks, gone.attributes) == ("done", (), {})


def test_a_failed_stack_fails_the_phase_with_the_platforms_reason() -> None:
    after = testing.Context(HELLO).run("deploy", testing.State(fails={"hello": "no port is left"}))
    assert (after.outcome, after.message) == ("failed", "the stack hello in local is CREATE_FAILED: no port is left")


def test_a_retry_removes_the_failed_stack_first() -> None:
    context = testing.Context(HELLO)
    failed = context.run("deploy", testing.State(fails={"hello": "no port is left"}))
    again = testing.State(stacks=failed.stacks, makes={"hello": URL})
    assert context.run("deploy", again).stack("hello").state == "CREATE_COMPLETE"


def test_an_undeclared_action_changes_nothing() -> None:
    provisioned = testing.State(stacks=[testing.Stack("hello", outputs=URL)], phase="provision")
    after = testing.Context(HELLO).run(sdk.Action("shout"), provisioned)
    assert after.stacks == tuple(provisioned.stacks)


def test_it_greets_on_the_local_platform(platform: Platform) -> None:
    done = platform.settle(order(HELLO, {"hello.greeting": "Moin <b>"}))
    assert done.state == "CREATE_COMPLETE"
    with urllib.request.urlopen(done.outputs["hello.url"], timeout=60) as answer:
        assert "<h1>Moin &lt;b&gt;</h1>" in answer.read().decode()
