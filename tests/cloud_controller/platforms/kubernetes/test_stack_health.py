"""The health of a Kubernetes stack, from the status of its objects as a cluster would report it."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_controller.core.labels import Labels
from cloud_controller.core.stack_health import StackHealth, of_state
from cloud_controller.platforms.interface import Progress, StackOrder
from cloud_controller.platforms.kubernetes.stacks import KubernetesStacks
from cloud_controller.platforms.kubernetes.template import Rendered

ORDER = StackOrder("s", "s", Labels("i", "t", "service", 1), "")


class _Cluster:
    def of_kind(self, version: str, kind: str, *, stack: str) -> list[Any]:
        return []

    def events(self, found: Any) -> list[Any]:
        return []


class _Stacks(KubernetesStacks):
    """Reads these objects instead of a cluster's; the template has the first ones."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        super().__init__(_Cluster(), None)  # type: ignore[arg-type]
        self.template = self.objects = objects

    def _rendered(self, order: StackOrder) -> Rendered:
        return Rendered(self.template)

    def _carry_out(self, wanted: Rendered, order: StackOrder) -> None:
        pass

    def _read(self, wanted: Rendered, order: StackOrder) -> dict[tuple[str, str], Any]:
        return {(each["kind"], each["metadata"]["name"]): each for each in self.objects}


def deployment(name: str, ready: int, of: int) -> dict[str, Any]:
    status = {"updatedReplicas": of, "replicas": of, "availableReplicas": ready}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {}},
        "spec": {"replicas": of},
        "status": status,
    }


def created(stacks: _Stacks) -> Progress:
    done = stacks.advance(ORDER, None)
    assert done.state == "CREATE_COMPLETE"
    return done


def test_a_complete_stack_is_healthy_while_all_objects_are_ready() -> None:
    assert created(_Stacks(deployment("web", 2, 2))).health == ("healthy", "")


@pytest.mark.parametrize(
    ("web", "db", "health"), [((1, 2), (1, 1), "degraded"), ((0, 2), (1, 1), "down"), ((1, 2), (0, 1), "down")]
)
def test_it_is_degraded_while_some_pods_of_a_workload_are_missing_and_down_without_any(
    web: tuple[int, int], db: tuple[int, int], health: str
) -> None:
    stacks = _Stacks(deployment("web", 2, 2), deployment("db", 1, 1))
    done = created(stacks)
    stacks.objects = (deployment("web", *web), deployment("db", *db))
    seen = stacks.advance(ORDER, done.record)
    assert seen.state == "CREATE_COMPLETE"
    assert seen.health is not None
    assert seen.health.value == health
    assert f"Deployment/web: {web[0]} of {web[1]} ready" in seen.health.message
    stacks.objects = (deployment("web", 2, 2), deployment("db", 1, 1))
    assert stacks.advance(ORDER, seen.record).health == ("healthy", "")


def test_its_health_is_unknown_while_an_order_is_carried_out() -> None:
    assert _Stacks(deployment("web", 0, 2)).advance(ORDER, None).health is None


@pytest.mark.parametrize(
    ("state", "health"),
    [
        ("CREATE_COMPLETE", StackHealth("healthy")),
        ("UPDATE_FAILED", StackHealth("degraded", "why")),
        ("CREATE_FAILED", StackHealth("down", "why")),
        ("UPDATE_IN_PROGRESS", None),
        ("ROLLBACK_COMPLETE", None),
        ("SUSPEND_COMPLETE", None),
        ("DELETE_FAILED", None),
    ],
)
def test_of_other_stacks_the_state_tells_the_health(state: str, health: StackHealth | None) -> None:
    assert of_state(state, "why") == health
