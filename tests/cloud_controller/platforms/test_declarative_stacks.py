"""One call of `advance` waits for the result of its own steps, within its patience; nodes are in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from bundles.infrastructure.description import Implementation
from cloud_controller.infrastructure.resources import Condition, NodeError, ObservedNode, WantedNode
from cloud_controller.platforms.declarative_stacks import DeclarativeStacks
from tests.cloud_controller.infrastructure.descriptions import order

_PAIR = """
infra_name: pair
nodes:
  - name: database
    type: node
  - name: web
    type: node
dependencies:
  - connection: [web, database]
'node_def:node':
  - resource: {type: memory}
    health_check: {ports: [80]}
"""
#: Longer than any test: a call that waits for it in vain hangs.
_PATIENCE = 600.0


class _Nodes:
    """Nodes that run at once; `refuses` makes every check fail, whatever the time."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.present: dict[str, ObservedNode] = {}
        self.waits: list[float] = []
        self._refuses = refuses

    @staticmethod
    def check(implementation: Implementation) -> None:
        """Accept everything."""

    def ensure(self, wanted: WantedNode) -> None:
        self.present[wanted.key] = ObservedNode(
            wanted.key, wanted.node, "memory", Condition.RUNNING, wanted.revision, wanted.needs
        )

    def halt(self, stack: str, key: str) -> bool:
        raise AssertionError("nothing is halted")

    def remove(self, stack: str, key: str) -> bool:
        del self.present[key]
        return True

    def observe(self, stack: str) -> Sequence[ObservedNode]:
        return [*self.present.values()]

    def healthy(self, asked: Sequence[tuple[WantedNode, ObservedNode]], wait: float = 0.0) -> Mapping[str, str]:
        self.waits.append(wait)
        return {wanted.key: "refused" if self._refuses else "" for wanted, _ in asked}


def test_a_stack_whose_nodes_start_at_once_takes_one_call() -> None:
    nodes = _Nodes()
    stacks = DeclarativeStacks({"memory": nodes}, patience=_PATIENCE)
    wanted = order(_PAIR)
    done = stacks.advance(wanted, None)
    assert (done.state, sorted(nodes.present)) == ("CREATE_COMPLETE", ["database.0", "web.0"])
    assert all(0 < wait <= _PATIENCE for wait in nodes.waits)
    gone = stacks.advance(replace(wanted, presence="absent"), done.record)
    assert (gone.state, nodes.present) == ("DELETE_COMPLETE", {})


def test_a_call_without_steps_of_its_own_does_not_wait() -> None:
    nodes = _Nodes(refuses=True)
    stacks = DeclarativeStacks({"memory": nodes}, patience=_PATIENCE)
    wanted = order(_PAIR)
    begun = stacks.advance(wanted, None)
    assert begun.state == "CREATE_IN_PROGRESS"
    nodes.waits.clear()
    assert stacks.advance(wanted, begun.record).state == "CREATE_IN_PROGRESS"
    assert nodes.waits == [0.0]


@pytest.mark.parametrize("patience", [0.0, _PATIENCE])
def test_a_step_that_fails_ends_the_call(patience: float) -> None:
    stacks = DeclarativeStacks({"memory": _Failing()}, patience=patience)
    assert stacks.advance(order(_PAIR), None).state == "CREATE_IN_PROGRESS"


class _Failing(_Nodes):
    def ensure(self, wanted: WantedNode) -> None:
        raise NodeError("no space")
