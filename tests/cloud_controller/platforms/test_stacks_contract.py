"""The contract of stacks for every platform: processes of this machine, a real Heat and a real Kubernetes."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bundles
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import DeployError, Inventory, PlatformContext, Progress, StackOrder, Stacks
from cloud_controller.platforms.local.factory import open_local

from ..infrastructure.descriptions import sleepers
from .heat.heat_region import FakeStackIndex, open_region, template_of
from .kubernetes.bed import Bed

#: Fails at its first attempt.
FAILING_JOB = """---
apiVersion: batch/v1
kind: Job
metadata: {name: "bad-${org.archelon.instance}"}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - {name: job, image: "IMAGE", command: [python3, -c, "import sys; sys.exit(3)"], securityContext: {runAsUser: 1000}}
"""
PARAMETER = "word: {type: string, constraints: [{length: {max: 40}}]}"


@dataclasses.dataclass
class PlatformCase:
    """One platform, and templates in its format.

    Attributes:
        nodes: returns a template of nodes with one value each, whose change changes the node; the parameter `word` is also the
            output `word`.
        failing: a template with a node `bad` that cannot be created besides a node `good`.
        place: returns the platform's name of the only instance of a node.
    """

    stacks: Stacks
    inventory: Inventory
    nodes: Callable[[Mapping[str, str]], str]
    failing: str
    place: Callable[[str], str]
    index: FakeStackIndex
    orders: list[StackOrder] = dataclasses.field(default_factory=list)

    def order(self, template: str, **changes: Any) -> StackOrder:
        instance = str(uuid.uuid4())
        labels = Labels(instance, "tenant", "http://schemas.example.org/occi/sm#thing", 1)
        self.index.instances[instance] = labels
        values = {"id": str(uuid.uuid4()), "name": "thing", "labels": labels, "template": template, "version": 1}
        made = StackOrder(**{**values, **changes})
        self.orders.append(made)
        return made

    def settle(
        self, wanted: StackOrder, record: Mapping[str, Any] | None = None, *, seconds: float = 120.0
    ) -> tuple[Progress, list[str]]:
        """Call until nothing is in progress, as a worker and a watcher would; return the progress, and the states on the way."""
        end = time.monotonic() + seconds
        states: list[str] = []
        while True:
            progress = self.stacks.advance(wanted, record)
            record = progress.record
            if not states or states[-1] != progress.state:
                states.append(progress.state)
            if not progress.state.endswith("IN_PROGRESS"):
                # Once more: outputs may be from before the last steps.
                return self.stacks.advance(wanted, record), states
            assert time.monotonic() < end, f"{progress.state}: {progress.reason}"
            time.sleep(0.05)


def local(tmp_path: Path) -> PlatformCase:
    platform = open_local(PlatformContext("local", tmp_path / "local"))

    def nodes(values: Mapping[str, str]) -> str:
        lines = ["infra_name: thing", "parameters: {word: {type: string, pattern: '.{0,40}'}}", "nodes:"]
        lines += [f"  - {{name: {name}, type: {name}}}" for name in values]
        lines += ["outputs: {word: {value: '${parameters.word}'}}"]
        for name, value in values.items():
            lines += [f"'node_def:{name}':"]
            lines += [f"  - resource: {{type: process, command: [sleep, '1000'], environment: {{VALUE: '{value}'}}}}"]
        return "\n".join(lines) + "\n"

    failing = sleepers({"good": [], "bad": ["good"]}).replace("type: sleeper", "type: sleeper", 1)
    failing = failing.replace("{name: bad, type: sleeper", "{name: bad, type: dying")
    # Never observed as running, however rarely it is polled.
    failing += "'node_def:dying':\n  - resource: {type: process, command: [no-such-program]}\n"
    return PlatformCase(platform.stacks, platform.inventory, nodes, failing, "{}.0".format, FakeStackIndex())


def heat(request: pytest.FixtureRequest, tmp_path: Path) -> PlatformCase:
    index = FakeStackIndex()
    platform = open_region(request.getfixturevalue("openstack"), tmp_path, index)

    def nodes(values: Mapping[str, str]) -> str:
        resources = {name: {"value": f"'{value}'"} for name, value in values.items()}
        return template_of(resources, parameters=PARAMETER, outputs="word: {value: {get_param: word}}")

    failing = template_of({"good": {}, "bad": {"fail": "true"}})
    return PlatformCase(platform.stacks, platform.inventory, nodes, failing, str, index)


def kubernetes(request: pytest.FixtureRequest) -> PlatformCase:
    bed: Bed = request.getfixturevalue("bed")

    def nodes(values: Mapping[str, str]) -> str:
        maps = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name + "-${org.archelon.instance}"},
                "data": {"value": value, "word": "${word}"},
            }
            for name, value in values.items()
        ]
        first = f"ConfigMap/{next(iter(values))}-${{org.archelon.instance}}"
        ours = {"word": {"of": first, "value": "{.data.word}"}}
        return bundles.to_text([*maps, {"apiVersion": "archelon.org/v1", "kind": "Stack", "outputs": ours}])

    failing = nodes({"good": "1"}).replace("${word}", "x") + FAILING_JOB.replace("IMAGE", bed.image)
    return PlatformCase(
        bed.platform.stacks, bed.platform.inventory, nodes, failing, "ConfigMap/{}".format, FakeStackIndex()
    )


@pytest.fixture(
    params=[
        "local",
        pytest.param("heat", marks=pytest.mark.openstack),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ]
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PlatformCase]:
    if request.param == "kubernetes":
        made = kubernetes(request)
    else:
        made = local(tmp_path) if request.param == "local" else heat(request, tmp_path)
    yield made
    for order in made.orders:
        gone = replace(order, presence="absent")
        made.settle(gone)
        assert list(made.stacks.remains(gone)) == []


def test_create_outputs_and_delete(case: PlatformCase) -> None:
    wanted = case.order(case.nodes({"a": "1", "b": "1"}), parameters={"word": "hello"})
    done, states = case.settle(wanted)
    # Objects that need no start are complete at once.
    assert states[-1] == "CREATE_COMPLETE"
    assert set(states) <= {"CREATE_IN_PROGRESS", "CREATE_COMPLETE"}
    assert (done.outputs, done.reason) == ({"word": "hello"}, "")
    assert {each.name for each in done.resources or ()} == {case.place("a"), case.place("b")}
    # Without the record the stack is found, and nothing is recreated.
    again, states = case.settle(wanted, None)
    assert states == ["CREATE_COMPLETE"]
    assert again.resources == done.resources
    gone, states = case.settle(replace(wanted, presence="absent"), done.record)
    assert states[-1] == gone.state == "DELETE_COMPLETE"
    assert list(case.stacks.remains(wanted)) == []


def test_an_update_is_previewed_and_changes_only_differences(case: PlatformCase) -> None:
    wanted = case.order(case.nodes({"a": "1", "b": "1", "c": "1"}), parameters={"word": "one"})
    done, _ = case.settle(wanted)
    before = {each.name: each.id for each in done.resources or ()}
    changed = replace(wanted, template=case.nodes({"a": "1", "b": "2", "d": "1"}), version=2)
    preview = {each.name: each.state for each in case.stacks.preview(changed, done.record)}
    assert {name: preview[case.place(name)] for name in "abcd"} == {
        "a": "KEEP",
        "b": "UPDATE",
        "c": "DELETE",
        "d": "CREATE",
    }
    assert case.settle(wanted, done.record)[0].resources == done.resources
    after, states = case.settle(changed, done.record)
    assert states[-1] == "UPDATE_COMPLETE"
    assert set(states) <= {"UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"}
    assert {each.name for each in after.resources or ()} == {case.place(name) for name in "abd"}
    assert {each.name: each.id for each in after.resources or ()}[case.place("a")] == before[case.place("a")]
    # A repeated order, from a caller that has lost the record.
    found, states = case.settle(changed, None)
    assert states[-1] in ("UPDATE_COMPLETE", "CREATE_COMPLETE")
    assert found.resources == after.resources


def test_it_is_suspended_and_resumed(case: PlatformCase) -> None:
    wanted = case.order(case.nodes({"a": "1"}), parameters={"word": "one"})
    done, _ = case.settle(wanted)
    asleep, states = case.settle(replace(wanted, presence="suspended", version=2), done.record)
    assert (states[-1], asleep.state) == ("SUSPEND_COMPLETE", "SUSPEND_COMPLETE")
    awake, states = case.settle(replace(wanted, version=3), asleep.record)
    assert (states[-1], awake.state) == ("RESUME_COMPLETE", "RESUME_COMPLETE")
    assert {each.id for each in awake.resources or ()} == {each.id for each in done.resources or ()}
    # An order after the resumption is carried out.
    later = replace(wanted, parameters={"word": "two"}, version=4)
    assert case.settle(later, awake.record)[0].outputs == {"word": "two"}


def test_rollback_of_a_failed_create_is_optional(case: PlatformCase) -> None:
    undone, states = case.settle(case.order(case.failing, rollback=True))
    assert (states[-1], undone.state) == ("ROLLBACK_COMPLETE", "ROLLBACK_COMPLETE")
    assert "bad" in undone.reason
    assert not [each for each in undone.resources or () if each.state == "CREATE_COMPLETE"]
    kept, states = case.settle(case.order(case.failing, rollback=False))
    assert (states[-1], kept.state) == ("CREATE_FAILED", "CREATE_FAILED")
    assert "bad" in kept.reason
    assert case.place("good") in {each.name for each in kept.resources or ()}


# Kubernetes manifests declare no parameters: the service's own manifest does.
@pytest.mark.parametrize("case", ["local", pytest.param("heat", marks=pytest.mark.openstack)], indirect=True)
def test_invalid_parameters_are_rejected_without_their_values(case: PlatformCase) -> None:
    template = case.nodes({"a": "1"})
    secret = "correct horse battery staple, and much more of it"
    for parameters, result in (
        ({}, "word"),
        ({"word": secret}, "word"),
        ({"word": "x", "other": secret}, "other"),
    ):
        order = case.order(template, parameters=parameters, secrets=frozenset(parameters))
        with pytest.raises(DeployError) as refused:
            case.stacks.validate(order)
        assert result in str(refused.value)
        assert secret not in str(refused.value)
        with pytest.raises(DeployError):
            case.stacks.advance(order, None)
        assert list(case.stacks.remains(order)) == []


def test_an_invalid_stack_can_be_deleted(case: PlatformCase) -> None:
    wanted = case.order(case.nodes({"a": "1"}), parameters={"word": "one"})
    done, _ = case.settle(wanted)
    broken = replace(wanted, template="now: nonsense", version=2)
    with pytest.raises(DeployError):
        case.stacks.advance(broken, done.record)
    assert case.settle(replace(broken, presence="absent"), done.record)[0].state == "DELETE_COMPLETE"


def test_a_signal_that_nothing_waits_for_is_refused(case: PlatformCase) -> None:
    wanted = case.order(case.nodes({"a": "1"}), parameters={"word": "one"})
    case.settle(wanted)
    with pytest.raises(DeployError, match="signal"):
        case.stacks.signal(wanted, "nobody", {})


def test_an_inventory_lists_and_removes_by_instance(case: PlatformCase) -> None:
    mine = case.order(case.nodes({"a": "1"}), parameters={"word": "one"})
    other = case.order(case.nodes({"a": "1"}), parameters={"word": "one"})
    for each in (mine, other):
        case.settle(each)
    instance = mine.labels.instance
    assert case.inventory.objects(instance)
    assert case.inventory.remains(instance)
    end = time.monotonic() + 60
    while not case.inventory.remove(instance) or case.inventory.remains(instance):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert list(case.inventory.objects(instance)) == []
    assert list(case.stacks.remains(mine)) == []
    assert case.inventory.objects(other.labels.instance)
    assert list(case.inventory.remains(str(uuid.uuid4()))) == []
