"""Planning alone, against an in-memory platform: any graph, any failure, steps lost at any time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.infrastructure.description import Description, Health, Implementation, Node
from bundles.infrastructure.rendering import Place, RenderedItem
from cloud_controller.core.labels import Labels
from cloud_controller.infrastructure import planning
from cloud_controller.infrastructure.planning import (
    Ensure,
    Halt,
    NodeStatus,
    Plan,
    RemoveNode,
    StackRecord,
    Step,
    scaled,
    with_errors,
)
from cloud_controller.infrastructure.resolving import WantedNodes
from cloud_controller.infrastructure.resources import Condition, ObservedNode, WantedNode

HERE = Place("t", 1, 1)
LABELS = Labels("i", "t", "s", 1)


def item(value: object) -> RenderedItem:
    if isinstance(value, dict):
        return RenderedItem({key: item(entry) for key, entry in value.items()}, HERE)
    return RenderedItem(value, HERE)  # type: ignore[arg-type]


def description_of(
    graph: dict[str, set[str]],
    *,
    scaling: dict[str, tuple[int, int]] | None = None,
    image: str = "1",
    health: Health = Health(timeout=10, interval=1, min_uptime=0),  # noqa: B008 - immutable
    **own: str,
) -> Description:
    """Return nodes that refer to the port of each dependency; `own` gives single nodes another image."""
    nodes = {}
    for name, needs in graph.items():
        low, high = (scaling or {}).get(name, (1, 1))
        resource = {
            "type": "fake",
            "image": own.get(name, image),
            **{f"to_{other}": f"${{nodes.{other}.port}}" for other in sorted(needs)},
        }
        chosen = Implementation("fake", item(resource), None, None, health, None, HERE)
        nodes[name] = Node(name, "fake", chosen, HERE, low, high, {}, frozenset(needs))
    return Description("platform", nodes, {}, {})


def wanted(description: Description, **changes: object) -> WantedNodes:
    return replace(WantedNodes("s", description, LABELS), **changes)  # type: ignore[arg-type]


@dataclass
class FakePlatform:
    """Nodes that take one iteration to start and another to become healthy; `sick` and `dying` ones fail."""

    now: float = 1000.0
    nodes: dict[str, ObservedNode] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    sick: set[str] = field(default_factory=set)
    dying: set[str] = field(default_factory=set)
    record: StackRecord | None = None
    states: list[str] = field(default_factory=list)

    def step(self, target: WantedNodes, *, lose: Callable[[], bool] = lambda: False) -> Plan:
        for key, node in self.nodes.items():
            if node.condition is Condition.RUNNING:
                self.nodes[key] = replace(
                    node, healthy=key not in self.sick, message="" if key not in self.sick else "no answer"
                )
        plan = planning.plan(target, self.record, self.nodes, self.now)
        if not lose():
            self.record = StackRecord.from_json(plan.record.to_json())
            if not self.states or self.states[-1] != self.record.state:
                self.states.append(self.record.state)
        self.now += max(plan.again or 0.0, 0.01)
        for step in plan.steps:
            if not lose():
                self.take(step)
        return plan

    def take(self, step: Step) -> None:
        if isinstance(step, RemoveNode):
            self.removed.append(step.key)
            self.nodes.pop(step.key, None)
        elif isinstance(step, Halt):
            self.nodes[step.key] = replace(self.nodes[step.key], condition=Condition.STOPPED, since=self.now)
        else:
            node = self.nodes.get(step.key)
            if node is None or node.revision != step.node.revision or node.condition is not Condition.RUNNING:
                self.starts.append(step.key)
                self.nodes[step.key] = self.started(step.node)

    def started(self, node: WantedNode) -> ObservedNode:
        condition = Condition.FAILED if node.key in self.dying else Condition.RUNNING
        port = 1 + sorted({*self.nodes, node.key}).index(node.key)
        before = self.nodes.get(node.key)
        attributes = before.attributes if before is not None else {"address": "here", "port": port}
        return ObservedNode(
            node.key, node.node, "fake", condition, node.revision, node.needs, attributes, None, self.now, "died"
        )

    def settle(self, target: WantedNodes, *, iterations: int = 500) -> StackRecord:
        for _ in range(iterations):
            plan = self.step(target)
            assert self.record is not None
            if not self.record.state.endswith("IN_PROGRESS") and not plan.steps:
                return self.record
        raise AssertionError(f"not settled: {self.record}")


DIAMOND: dict[str, set[str]] = {"top": {"left", "right"}, "left": {"base"}, "right": {"base"}, "base": set()}


def test_a_diamond_is_created_from_its_base_and_removed_in_reverse() -> None:
    platform = FakePlatform()
    target = wanted(description_of(DIAMOND))
    assert platform.settle(target).state == "CREATE_COMPLETE"
    assert platform.starts == ["base.0", "left.0", "right.0", "top.0"]
    assert platform.settle(replace(target, presence="absent")).state == "DELETE_COMPLETE"
    assert platform.removed == ["top.0", "left.0", "right.0", "base.0"]


def test_independent_nodes_start_concurrently_and_dependents_after_healthy_ones() -> None:
    platform = FakePlatform(sick={"base.0"})
    target = wanted(description_of({**DIAMOND, "other": set()}))
    first = platform.step(target)
    assert sorted(step.key for step in first.steps) == ["base.0", "other.0"]
    for _ in range(5):
        assert platform.step(target).steps == ()
    platform.sick.clear()
    assert sorted(step.key for step in platform.step(target).steps) == ["left.0", "right.0"]


def test_an_unchanged_stack_at_rest_has_no_steps() -> None:
    platform = FakePlatform()
    target = wanted(description_of(DIAMOND))
    platform.settle(target)
    plan = platform.step(target)
    assert (plan.steps, plan.record.state, plan.again) == ((), "CREATE_COMPLETE", 1)


def test_a_healthy_node_of_which_changes_are_told_is_looked_at_rarely() -> None:
    platform = FakePlatform()
    target = wanted(description_of(DIAMOND), told=frozenset(["fake"]))
    platform.settle(target)
    assert platform.step(target).again == planning.STEADY
    platform.sick.add("top.0")
    assert (platform.step(target).again or 0.0) < 1.0


def test_long_health_is_forgiven_though_nobody_looked_meanwhile() -> None:
    platform = FakePlatform(dying={"web.0"})
    target = wanted(description_of({"web": set()}))
    platform.step(target)
    platform.step(target)
    assert platform.record is not None
    assert platform.record.nodes["web.0"].failures == 1
    platform.dying.clear()
    platform.settle(target)
    platform.now += 301
    platform.nodes["web.0"] = replace(platform.nodes["web.0"], condition=Condition.FAILED, since=platform.now)
    platform.step(target)
    assert platform.record.nodes["web.0"].failures == 1


def test_update_replaces_changed_instances_one_at_a_time() -> None:
    platform = FakePlatform()
    scaling = {"left": (2, 4)}
    platform.settle(wanted(description_of(DIAMOND, scaling=scaling)))
    platform.starts.clear()
    target = wanted(description_of(DIAMOND, scaling=scaling, left="2"))
    assert [step.key for step in platform.step(target).steps] == ["left.0"]
    assert [step.key for step in platform.step(target).steps] == ["left.1"]
    assert platform.settle(target).state == "UPDATE_COMPLETE"
    assert platform.starts == ["left.0", "left.1"]
    assert platform.removed == []


def test_update_adds_first_and_removes_last() -> None:
    platform = FakePlatform()
    platform.settle(wanted(description_of({"a": set(), "old": {"a"}, "older": {"old"}})))
    target = wanted(description_of({"a": set(), "new": {"a"}}))
    platform.settle(target)
    assert platform.starts[-1] == "new.0"
    assert platform.removed == ["older.0", "old.0"]


def test_scaling_both_ways() -> None:
    platform = FakePlatform()
    description = description_of(DIAMOND, scaling={"left": (1, 3)})
    target = wanted(description)
    platform.settle(target)
    up = replace(target, counts=scaled(target, "left", by=2))
    assert platform.settle(up).state == "UPDATE_COMPLETE"
    assert platform.starts[-2:] == ["left.1", "left.2"]
    down = replace(up, counts=scaled(up, "left", count=1))
    platform.settle(down)
    assert platform.removed == ["left.1", "left.2"]
    for bad in (0, 4):
        with pytest.raises(ValueError, match="has 1 to 3 instances"):
            scaled(target, "left", count=bad)


def test_scaling_down_does_not_wait_for_unhealthy_nodes() -> None:
    platform = FakePlatform()
    target = wanted(description_of(DIAMOND, scaling={"left": (1, 3)}), counts={"left": 3})
    platform.settle(target)
    platform.sick.add("base.0")
    platform.step(replace(target, counts={}))
    assert platform.removed == ["left.1", "left.2"]


def test_a_failing_node_is_recreated_with_backoff_until_its_order_fails() -> None:
    platform = FakePlatform(dying={"left.0"})
    begun = platform.now
    record = platform.settle(wanted(description_of(DIAMOND), attempts=3, backoff=1.0, rollback=False))
    assert record.state == "CREATE_FAILED"
    assert record.reason == "left.0: died (after 3 further attempts)"
    assert platform.starts.count("left.0") == 4
    assert platform.now - begun >= 1 + 2 + 4
    assert "top.0" not in platform.starts


def test_a_failed_create_rolls_back_in_reverse_with_a_reason() -> None:
    platform = FakePlatform(dying={"top.0"})
    record = platform.settle(wanted(description_of(DIAMOND)))
    assert record.state == "ROLLBACK_COMPLETE"
    assert record.reason == "create failed: top.0: died (after 3 further attempts)"
    assert platform.removed == ["top.0", "left.0", "right.0", "base.0"]
    assert platform.nodes == {}
    # Repeating the order changes nothing; another order is a new create.
    assert platform.step(wanted(description_of(DIAMOND))).steps == ()
    platform.dying.clear()
    assert platform.settle(wanted(description_of(DIAMOND, image="2"))).state == "CREATE_COMPLETE"


def test_an_unhealthy_node_is_halted_and_recreated() -> None:
    platform = FakePlatform()
    target = wanted(description_of(DIAMOND))
    platform.settle(target)
    platform.sick.add("left.0")
    platform.step(target)
    assert platform.record is not None
    assert platform.record.state == "CREATE_COMPLETE"  # a single failed check is not a failure
    until = platform.now + 10.0
    while platform.starts.count("left.0") == 1:
        platform.step(target)
        assert platform.now < until + 5
    assert platform.now >= until - 1
    assert platform.states[-1] == "UPDATE_IN_PROGRESS"
    assert "left.0: " in platform.record.reason
    platform.sick.clear()
    assert platform.settle(target).state == "UPDATE_COMPLETE"
    assert platform.starts.count("left.0") == 2


def test_a_new_order_resets_given_up_nodes() -> None:
    platform = FakePlatform()
    platform.settle(wanted(description_of(DIAMOND)))
    platform.dying.add("left.0")
    assert platform.settle(wanted(description_of(DIAMOND, left="2"))).state == "UPDATE_FAILED"
    platform.dying.clear()
    assert platform.settle(wanted(description_of(DIAMOND, left="3"))).state == "UPDATE_COMPLETE"


def test_a_failed_step_counts_as_a_failure() -> None:
    target = wanted(description_of({"a": set()}), rollback=False, backoff=0.0)
    record: StackRecord | None = None
    for now in range(10):
        plan = planning.plan(target, record, {}, float(now))
        record = with_errors(plan.record, {step.key: "the disk is full" for step in plan.steps}, float(now))
    assert record is not None
    assert record.state == "CREATE_FAILED"
    assert record.reason == "a.0: the disk is full (after 3 further attempts)"


def kill(platform: FakePlatform, key: str) -> None:
    platform.nodes[key] = replace(
        platform.nodes[key], condition=Condition.FAILED, healthy=None, since=platform.now, message="killed"
    )


def test_a_standing_node_that_keeps_failing_is_recreated_at_growing_intervals_without_end() -> None:
    platform = FakePlatform()
    target = wanted(description_of(DIAMOND), backoff=1.0, backoff_limit=60.0)
    platform.settle(target)
    platform.dying.add("left.0")
    kill(platform, "left.0")
    starts: list[float] = []
    while len(starts) < 12:
        made = len(platform.starts)
        plan = platform.step(target)
        if len(platform.starts) > made:
            starts.append(platform.now)
    assert plan.record.state == "UPDATE_FAILED"
    assert plan.health == ("down", "left.0: died (failed 12 times)")
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(starts)]
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]
    platform.dying.clear()
    while plan.health != ("healthy", ""):
        plan = platform.step(target)
    assert plan.record.state == "UPDATE_COMPLETE"
    assert platform.now - starts[-1] < 70


def test_a_stack_is_degraded_while_some_instances_of_a_node_fail_and_down_without_any() -> None:
    platform = FakePlatform()
    target = wanted(description_of({"web": set()}, scaling={"web": (2, 2)}), backoff=30.0)
    platform.settle(target)
    kill(platform, "web.1")
    assert platform.step(target).health == ("degraded", "web.1: killed")
    kill(platform, "web.0")
    assert platform.step(target).health == ("down", "web.0: killed; web.1: killed")


def test_the_health_is_unknown_until_the_order_is_carried_out() -> None:
    platform = FakePlatform()
    target = wanted(description_of({"web": set()}))
    while (plan := platform.step(target)).record.state != "CREATE_COMPLETE":
        assert plan.health is None
    assert plan.health == ("healthy", "")
    assert platform.step(wanted(description_of({"web": set()}, image="2"))).health is None


def test_checks_that_fail_for_an_interval_make_the_node_unhealthy() -> None:
    platform = FakePlatform()
    target = wanted(description_of({"web": set()}))
    platform.settle(target)
    platform.sick.add("web.0")
    begun = platform.now
    while (plan := platform.step(target)).health == ("healthy", ""):
        assert platform.now - begun < 2
    assert plan.health == ("down", "web.0: no answer")
    assert platform.now - begun >= 1


def test_a_node_without_checks_is_healthy_when_it_has_run_for_a_while() -> None:
    platform = FakePlatform()
    target = wanted(description_of({"web": set()}, health=Health(min_uptime=2)), backoff=0.0, rollback=False)
    begun = platform.now
    while platform.now < begun + 1:
        assert platform.step(target).record.state == "CREATE_IN_PROGRESS"
    kill(platform, "web.0")
    platform.step(target)
    again = platform.now
    platform.settle(target)
    assert platform.record is not None
    assert platform.record.state == "CREATE_COMPLETE"
    assert platform.now - again >= 2
    assert platform.starts == ["web.0", "web.0"]


def test_a_later_generation_of_the_same_order_tries_again_at_once() -> None:
    platform = FakePlatform()
    target = wanted(description_of({"web": set()}), backoff=30.0)
    platform.settle(target)
    kill(platform, "web.0")
    assert platform.step(target).steps == ()
    later = replace(target, labels=replace(LABELS, generation=2))
    assert [step.key for step in platform.step(later).steps] == ["web.0"]
    assert platform.settle(later).state == "UPDATE_COMPLETE"


def test_a_record_of_an_earlier_version_is_read() -> None:
    kept = {"order": "x", "action": "CREATE", "status": "COMPLETE", "reason": "", "nodes": {"web.0": {"failures": 1}}}
    record = StackRecord.from_json(kept)
    assert record.reached
    assert record.nodes["web.0"].failures == 1


@st.composite
def acyclic(draw: st.DrawFn) -> dict[str, set[str]]:
    count = draw(st.integers(1, 7))
    graph: dict[str, set[str]] = {}
    for number in range(count):
        graph[f"n{number}"] = draw(st.sets(st.sampled_from(sorted(graph)), max_size=3)) if graph else set()
    return graph


@settings(max_examples=100, deadline=None)
@given(acyclic(), acyclic(), st.randoms(use_true_random=False))
def test_any_graph_to_any_other_though_steps_and_records_are_lost(
    before: dict[str, set[str]], after: dict[str, set[str]], random: object
) -> None:
    platform = FakePlatform()
    chance = random.random  # type: ignore[attr-defined]
    for graph, image in ((before, "1"), (after, "2")):
        target = wanted(description_of(graph, image=image))
        for _ in range(20):
            plan = platform.step(target, lose=lambda: chance() < 0.4)
            for step in plan.steps:
                if isinstance(step, Ensure):
                    assert all(f"{needed}.0" in platform.nodes for needed in step.node.needs)
        assert platform.settle(target).status is NodeStatus.COMPLETE
        assert set(platform.nodes) == {f"{name}.0" for name in graph}
        assert platform.step(target).steps == ()
    platform.settle(wanted(description_of(after), presence="absent"))
    assert platform.nodes == {}


def test_a_failed_removal_is_reported_and_retried() -> None:
    platform = FakePlatform()
    target = wanted(description_of({"a": set()}))
    platform.settle(target)
    gone = replace(target, presence="absent")
    plan = planning.plan(gone, platform.record, platform.nodes, platform.now)
    kept = with_errors(plan.record, {"a.0": "port 1 is still listened on"}, platform.now)
    plan = planning.plan(gone, kept, platform.nodes, platform.now)
    assert (plan.record.state, plan.record.reason) == ("DELETE_IN_PROGRESS", "a.0: port 1 is still listened on")
    assert [step.key for step in plan.steps] == ["a.0"]
    assert platform.settle(gone).reason == ""
