"""What every platform's stacks keep to, on processes of this machine, on a real Heat and on a real Kubernetes alike."""

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
class Here:
    """One platform, and templates in its words.

    Attributes:
        nodes: a template of nodes, each with a value that a change of changes the node, and the parameter `word`, which is shown
            as the output `word`.
        failing: one with a node `bad` that cannot be made beside a node `good`.
        place: the name that the platform gives the only instance of a node.
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
        """Call until nothing is in progress, as a worker and a watcher would; what came out, and the states on the way."""
        end = time.monotonic() + seconds
        states: list[str] = []
        while True:
            progress = self.stacks.advance(wanted, record)
            record = progress.record
            if not states or states[-1] != progress.state:
                states.append(progress.state)
            if not progress.state.endswith("IN_PROGRESS"):
                # One more look, since outputs may be of what was seen before the last steps.
                return self.stacks.advance(wanted, record), states
            assert time.monotonic() < end, f"{progress.state}: {progress.reason}"
            time.sleep(0.05)


def local(tmp_path: Path) -> Here:
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
    # Never seen running, however seldom somebody looks.
    failing += "'node_def:dying':\n  - resource: {type: process, command: [no-such-program]}\n"
    return Here(platform.stacks, platform.inventory, nodes, failing, "{}.0".format, FakeStackIndex())


def heat(request: pytest.FixtureRequest, tmp_path: Path) -> Here:
    index = FakeStackIndex()
    platform = open_region(request.getfixturevalue("openstack"), tmp_path, index)

    def nodes(values: Mapping[str, str]) -> str:
        resources = {name: {"value": f"'{value}'"} for name, value in values.items()}
        return template_of(resources, parameters=PARAMETER, outputs="word: {value: {get_param: word}}")

    failing = template_of({"good": {}, "bad": {"fail": "true"}})
    return Here(platform.stacks, platform.inventory, nodes, failing, str, index)


def kubernetes(request: pytest.FixtureRequest) -> Here:
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
    return Here(bed.platform.stacks, bed.platform.inventory, nodes, failing, "ConfigMap/{}".format, FakeStackIndex())


@pytest.fixture(
    params=[
        "local",
        pytest.param("heat", marks=pytest.mark.openstack),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ]
)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Here]:
    if request.param == "kubernetes":
        made = kubernetes(request)
    else:
        made = local(tmp_path) if request.param == "local" else heat(request, tmp_path)
    yield made
    for order in made.orders:
        gone = replace(order, presence="absent")
        made.settle(gone)
        assert list(made.stacks.remains(gone)) == []


def test_a_stack_is_made_shows_its_outputs_and_goes(here: Here) -> None:
    wanted = here.order(here.nodes({"a": "1", "b": "1"}), parameters={"word": "hello"})
    done, states = here.settle(wanted)
    # Objects of which nothing has to come up are complete at once.
    assert states[-1] == "CREATE_COMPLETE"
    assert set(states) <= {"CREATE_IN_PROGRESS", "CREATE_COMPLETE"}
    assert (done.outputs, done.reason) == ({"word": "hello"}, "")
    assert {each.name for each in done.resources or ()} == {here.place("a"), here.place("b")}
    # Whoever has lost the record finds what was made, and makes nothing anew.
    again, states = here.settle(wanted, None)
    assert states == ["CREATE_COMPLETE"]
    assert again.resources == done.resources
    gone, states = here.settle(replace(wanted, presence="absent"), done.record)
    assert states[-1] == gone.state == "DELETE_COMPLETE"
    assert list(here.stacks.remains(wanted)) == []


def test_an_update_is_known_before_and_touches_what_changed(here: Here) -> None:
    wanted = here.order(here.nodes({"a": "1", "b": "1", "c": "1"}), parameters={"word": "one"})
    done, _ = here.settle(wanted)
    before = {each.name: each.id for each in done.resources or ()}
    changed = replace(wanted, template=here.nodes({"a": "1", "b": "2", "d": "1"}), version=2)
    preview = {each.name: each.state for each in here.stacks.preview(changed, done.record)}
    assert {name: preview[here.place(name)] for name in "abcd"} == {
        "a": "KEEP",
        "b": "UPDATE",
        "c": "DELETE",
        "d": "CREATE",
    }
    assert here.settle(wanted, done.record)[0].resources == done.resources
    after, states = here.settle(changed, done.record)
    assert states[-1] == "UPDATE_COMPLETE"
    assert set(states) <= {"UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"}
    assert {each.name for each in after.resources or ()} == {here.place(name) for name in "abd"}
    assert {each.name: each.id for each in after.resources or ()}[here.place("a")] == before[here.place("a")]
    # The same order, told by somebody who does not know that it has arrived.
    found, states = here.settle(changed, None)
    assert states[-1] in ("UPDATE_COMPLETE", "CREATE_COMPLETE")
    assert found.resources == after.resources


def test_it_is_suspended_and_resumed(here: Here) -> None:
    wanted = here.order(here.nodes({"a": "1"}), parameters={"word": "one"})
    done, _ = here.settle(wanted)
    asleep, states = here.settle(replace(wanted, presence="suspended", version=2), done.record)
    assert (states[-1], asleep.state) == ("SUSPEND_COMPLETE", "SUSPEND_COMPLETE")
    awake, states = here.settle(replace(wanted, version=3), asleep.record)
    assert (states[-1], awake.state) == ("RESUME_COMPLETE", "RESUME_COMPLETE")
    assert {each.id for each in awake.resources or ()} == {each.id for each in done.resources or ()}
    # What was ordered while it slept is done when it is awake.
    later = replace(wanted, parameters={"word": "two"}, version=4)
    assert here.settle(later, awake.record)[0].outputs == {"word": "two"}


def test_a_failed_create_is_rolled_back_or_kept_as_ordered(here: Here) -> None:
    undone, states = here.settle(here.order(here.failing, rollback=True))
    assert (states[-1], undone.state) == ("ROLLBACK_COMPLETE", "ROLLBACK_COMPLETE")
    assert "bad" in undone.reason
    assert not [each for each in undone.resources or () if each.state == "CREATE_COMPLETE"]
    kept, states = here.settle(here.order(here.failing, rollback=False))
    assert (states[-1], kept.state) == ("CREATE_FAILED", "CREATE_FAILED")
    assert "bad" in kept.reason
    assert here.place("good") in {each.name for each in kept.resources or ()}


# A manifest of Kubernetes declares no parameters: the service's own manifest does.
@pytest.mark.parametrize("here", ["local", pytest.param("heat", marks=pytest.mark.openstack)], indirect=True)
def test_parameters_are_checked_before_anything_is_made_and_told_without_their_values(here: Here) -> None:
    template = here.nodes({"a": "1"})
    secret = "correct horse battery staple, and much more of it"
    for parameters, result in (
        ({}, "word"),
        ({"word": secret}, "word"),
        ({"word": "x", "other": secret}, "other"),
    ):
        order = here.order(template, parameters=parameters, secrets=frozenset(parameters))
        with pytest.raises(DeployError) as refused:
            here.stacks.validate(order)
        assert result in str(refused.value)
        assert secret not in str(refused.value)
        with pytest.raises(DeployError):
            here.stacks.advance(order, None)
        assert list(here.stacks.remains(order)) == []


def test_what_became_unreadable_can_still_be_deleted(here: Here) -> None:
    wanted = here.order(here.nodes({"a": "1"}), parameters={"word": "one"})
    done, _ = here.settle(wanted)
    broken = replace(wanted, template="now: nonsense", version=2)
    with pytest.raises(DeployError):
        here.stacks.advance(broken, done.record)
    assert here.settle(replace(broken, presence="absent"), done.record)[0].state == "DELETE_COMPLETE"


def test_a_signal_that_nothing_waits_for_is_refused(here: Here) -> None:
    wanted = here.order(here.nodes({"a": "1"}), parameters={"word": "one"})
    here.settle(wanted)
    with pytest.raises(DeployError, match="signal"):
        here.stacks.signal(wanted, "nobody", {})


def test_an_inventory_finds_what_is_there_by_instance_and_take_it_away(here: Here) -> None:
    mine = here.order(here.nodes({"a": "1"}), parameters={"word": "one"})
    other = here.order(here.nodes({"a": "1"}), parameters={"word": "one"})
    for each in (mine, other):
        here.settle(each)
    instance = mine.labels.instance
    assert here.inventory.objects(instance)
    assert here.inventory.remains(instance)
    end = time.monotonic() + 60
    while not here.inventory.remove(instance) or here.inventory.remains(instance):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert list(here.inventory.objects(instance)) == []
    assert list(here.stacks.remains(mine)) == []
    assert here.inventory.objects(other.labels.instance)
    assert list(here.inventory.remains(str(uuid.uuid4()))) == []
