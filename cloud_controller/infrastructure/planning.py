"""Plans the next steps as a pure function: (wanted, record, observed, time) → (steps, new record).

Planning keeps no position in a procedure. Every call compares the wanted with the observed state and returns the steps that are
possible now; repeating or omitting one only changes what the next call observes. So the caller may be killed at any point, and
another continues.

The record is what cannot be observed on the platform: the order being carried out, whether it failed and why, how often each node
was recreated, and since when it has been unhealthy. Losing it restarts timeouts, but never loses a node.

A node that keeps failing fails its order after a number of attempts, but recreating it continues at growing intervals: whatever
made it fail may pass. Only a failed create ends, by its rollback.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from archelon_core.backoff import Backoff
from bundles.infrastructure.description import Node

from ..core.stack_health import StackHealth
from .resolving import WantedNodes, resolve
from .resources import Condition, ObservedNode, WantedNode

#: Seconds until something in progress is polled again, unless specified otherwise.
_SOON = 0.1
#: Seconds between two checks of a node that is not healthy yet.
_STARTING = 0.2
#: Seconds between two looks at a healthy node of which a watcher tells.
STEADY = 300.0
#: Seconds of health after which a node's failures are forgotten.
_FORGIVE = 300.0
#: Length in characters of a node's failure in the stack's health: of the reason, and the output that it ends with.
_MESSAGE = 700


class Action(enum.Enum):
    """Heat's names of actions."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    ROLLBACK = "ROLLBACK"
    SUSPEND = "SUSPEND"
    RESUME = "RESUME"


class NodeStatus(enum.Enum):
    """Heat's names of an action's status."""

    IN_PROGRESS = "IN_PROGRESS"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Attempts:
    """The failure history of one instance of a node.

    Args:
        failures: since it was last healthy for long.
        not_before: when it may be recreated. unhealthy_since, healthy_since: seconds since the epoch.
        revision: that the count belongs to; another revision resets it.
        failed_at: when a failure was last counted; states that began before have been counted.
        waiting: whether a failure was counted and the node has not been healthy since.
        error: why its last step failed; the next iteration counts it as a failure.
        reason: of its last failure.
        given_up: why it fails its order, after all attempts. Further ones are made at growing intervals.
    """

    revision: str = ""
    failures: int = 0
    not_before: float = 0.0
    unhealthy_since: float | None = None
    healthy_since: float | None = None
    failed_at: float = 0.0
    waiting: bool = False
    error: str = ""
    reason: str = ""
    given_up: str = ""


@dataclass(frozen=True)
class StackRecord:
    """The state of a stack that the caller keeps between two calls.

    Args:
        reached: whether every node has been as ordered once; since then, the nodes' health is the stack's.
    """

    order: str = ""
    action: Action = Action.CREATE
    status: NodeStatus = NodeStatus.IN_PROGRESS
    reason: str = ""
    reached: bool = False
    nodes: Mapping[str, Attempts] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Heat's name of the state, such as `CREATE_COMPLETE`."""
        return f"{self.action.value}_{self.status.value}"

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON."""
        nodes = {key: vars(attempts) for key, attempts in self.nodes.items()}
        return {
            "order": self.order,
            "action": self.action.value,
            "status": self.status.value,
            "reason": self.reason,
            "reached": self.reached,
            "nodes": nodes,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> StackRecord:
        """Return the record from `to_json`'s result."""
        nodes = {key: Attempts(**attempts) for key, attempts in kept["nodes"].items()}
        action, status = Action(kept["action"]), NodeStatus(kept["status"])
        # Records of earlier versions do not have it.
        reached = kept.get("reached", status is NodeStatus.COMPLETE)
        return cls(kept["order"], action, status, kept["reason"], reached, nodes)


@dataclass(frozen=True)
class Ensure:
    """Bring one instance of a node into the wanted state."""

    node: WantedNode

    @property
    def key(self) -> str:
        """The instance's key."""
        return self.node.key


@dataclass(frozen=True)
class Halt:
    """Stop one instance and keep its data."""

    key: str
    type: str


@dataclass(frozen=True)
class RemoveNode:
    """Remove one instance."""

    key: str
    type: str


Step = Ensure | Halt | RemoveNode


@dataclass(frozen=True)
class Plan:
    """The steps possible now, in any order and concurrently; keep the record once they have been carried out.

    `again` is the number of seconds until the next iteration; None if only a new order can change something. `health` is None
    while an order is carried out.
    """

    steps: tuple[Step, ...]
    record: StackRecord
    again: float | None
    health: StackHealth | None = None


def plan(wanted: WantedNodes, record: StackRecord | None, observed: Mapping[str, ObservedNode], now: float) -> Plan:
    """Compare and return the next steps; see the module's docstring. `now` is in seconds since the epoch.

    `observed` has every instance found, by key, with `healthy` set for those that run.
    """
    begun = _begin(wanted, record)
    if wanted.presence == "absent" or begun.action is Action.ROLLBACK:
        return _take_down(begun, observed)
    if wanted.presence == "suspended":
        return _suspend(wanted, begun, observed)
    return _Present(wanted, begun, observed, now).plan()


def _begin(wanted: WantedNodes, record: StackRecord | None) -> StackRecord:
    order = wanted.order()
    if record is not None and record.order == order:
        return record
    if wanted.presence == "absent":
        action = Action.DELETE
    elif wanted.presence == "suspended":
        action = Action.SUSPEND
    elif record is None or record.state in ("ROLLBACK_COMPLETE", "DELETE_COMPLETE"):
        action = Action.CREATE
    elif record.action is Action.SUSPEND:
        action = Action.RESUME
    elif record.action is Action.CREATE and record.status is NodeStatus.IN_PROGRESS:
        action = Action.CREATE
    else:
        action = Action.UPDATE
    # A new order resets all counts; what has failed before it is recreated at once.
    before = record.nodes if record is not None else {}
    nodes = {
        key: Attempts(revision=each.revision, waiting=True, failed_at=each.failed_at, reason=each.reason)
        for key, each in before.items()
        if each.waiting
    }
    return StackRecord(order=order, action=action, nodes=nodes)


def _take_down(record: StackRecord, observed: Mapping[str, ObservedNode]) -> Plan:
    if not observed:
        return Plan((), replace(record, status=NodeStatus.COMPLETE, nodes={}), None)
    steps = tuple(RemoveNode(node.key, node.type) for node in _last(observed))
    stuck = [f"{key}: {attempts.error}" for key, attempts in record.nodes.items() if attempts.error]
    if record.action is Action.DELETE:
        record = replace(record, reason="; ".join(stuck))
    return Plan(steps, replace(record, status=NodeStatus.IN_PROGRESS, nodes={}), 1.0 if stuck else _SOON)


def _suspend(wanted: WantedNodes, record: StackRecord, observed: Mapping[str, ObservedNode]) -> Plan:
    active = {key: node for key, node in observed.items() if node.condition in (Condition.RUNNING, Condition.STOPPING)}
    if not active:
        return Plan((), replace(record, status=NodeStatus.COMPLETE), None)
    steps = tuple(Halt(node.key, node.type) for node in _last(active))
    return Plan(steps, replace(record, status=NodeStatus.IN_PROGRESS), _SOON)


def _last(observed: Mapping[str, ObservedNode]) -> list[ObservedNode]:
    """Return the nodes that no other one needs, which go first. Each node stores its needs, so no description is necessary."""
    needed: set[str] = set()
    for node in observed.values():
        needed.update(node.needs)
    return [node for node in observed.values() if node.node not in needed] or list(observed.values())


class _Present:
    """One iteration for a stack that should be present."""

    def __init__(
        self, wanted: WantedNodes, record: StackRecord, observed: Mapping[str, ObservedNode], now: float
    ) -> None:
        self._wanted = wanted
        self._record = record
        self._observed = observed
        self._now = now
        self._steps: list[Step] = []
        self._nodes = dict(record.nodes)
        self._problems: list[str] = []
        self._again: list[float] = []

    def plan(self) -> Plan:
        settled: set[str] = set()
        for name in self._wanted.description.order():
            node = self._wanted.description.nodes[name]
            if node.needs <= settled and self._settle(node):
                settled.add(name)
        complete = len(settled) == len(self._wanted.description.nodes)
        self._remove_extras(complete=complete)
        given_up = [f"{key}: {attempts.given_up}" for key, attempts in self._nodes.items() if attempts.given_up]
        complete = complete and not self._steps
        record = self._concluded(given_up, complete=complete)
        if record.action is Action.ROLLBACK:
            return Plan((), record, 0.0)
        health = self._health() if record.reached or given_up else None
        return Plan(tuple(self._steps), record, min(self._again) if self._again else _SOON, health)

    def _concluded(self, given_up: list[str], *, complete: bool) -> StackRecord:
        record = replace(self._record, nodes=self._nodes)
        if given_up and record.action is Action.CREATE and not record.reached and self._wanted.rollback:
            reason = f"create failed: {'; '.join(given_up)}"
            return replace(record, action=Action.ROLLBACK, reason=reason, nodes={})
        if complete:
            return replace(record, status=NodeStatus.COMPLETE, reason="", reached=True)
        if given_up:
            action = Action.UPDATE if record.status is NodeStatus.COMPLETE else record.action
            return replace(record, action=action, status=NodeStatus.FAILED, reason="; ".join(given_up))
        if record.status is NodeStatus.COMPLETE and not self._steps and not self._problems:
            return record  # a single failed check is not a failure yet
        action = Action.UPDATE if record.status is not NodeStatus.IN_PROGRESS else record.action
        return replace(record, action=action, status=NodeStatus.IN_PROGRESS, reason="; ".join(self._problems))

    def _health(self) -> StackHealth:
        """Return the present health: `down` if a node has no instance that works, `degraded` if some do not work."""
        problems: list[str] = []
        down = False
        for node in self._wanted.description.nodes.values():
            keys = self._wanted.keys(node)
            wrong = {key: problem for key in keys if (problem := self._problem(node, key))}
            problems += [f"{key}: {problem}" for key, problem in wrong.items()]
            down |= bool(keys) and len(wrong) == len(keys)
        return StackHealth("down" if down else "degraded" if problems else "healthy", "; ".join(problems))

    def _problem(self, node: Node, key: str) -> str:
        """Return what is wrong with an instance of a node; empty if it works, or if a check failed just now."""
        seen, kept = self._observed.get(key), self._nodes.get(key, Attempts())
        times = f" (failed {kept.failures} times)" if kept.failures > 1 else ""
        reason = f"{kept.reason[:_MESSAGE]}{times}"
        if seen is None:
            return reason or "it does not exist"
        if seen.condition is not Condition.RUNNING:
            return reason or seen.message or "it does not run"
        if kept.waiting:
            return reason
        since = kept.unhealthy_since
        limits = node.implementation.health
        if since is None or self._now - since < min(limits.interval, limits.timeout):
            return ""
        return seen.message or reason or "no response"

    def _settle(self, node: Node) -> bool:
        """Plan the steps for one node; return whether all its instances are as wanted and healthy."""
        unsettled = 0
        outdated: list[WantedNode] = []
        for index, key in enumerate(self._wanted.keys(node)):
            target = resolve(self._wanted, node, index, self._observed)
            if isinstance(target, str):
                self._problems.append(f"{key}: {target}")
                unsettled += 1
                continue
            seen = self._observed.get(key)
            if seen is not None and seen.type != target.type:
                self._steps.append(RemoveNode(key, seen.type))
                unsettled += 1
            elif seen is not None and seen.condition is Condition.RUNNING and seen.revision != target.revision:
                outdated.append(target)
            elif not self._instance(node, target, seen):
                unsettled += 1
        # One at a time, so that the others keep serving.
        if outdated and not unsettled:
            self._ensure(outdated[0])
        return not unsettled and not outdated

    def _instance(self, node: Node, target: WantedNode, seen: ObservedNode | None) -> bool:
        kept = self._nodes.get(target.key, Attempts())
        if kept.revision != target.revision:
            kept = Attempts(revision=target.revision)
        if kept.healthy_since is not None and self._now - kept.healthy_since >= _FORGIVE:
            kept = replace(kept, failures=0)
        if kept.error:
            self._fail(target, replace(kept, error="", waiting=False), kept.error)
            return False
        if seen is None or seen.condition in (Condition.PENDING, Condition.STOPPED) or seen.revision != target.revision:
            if seen is not None and seen.condition is Condition.STOPPING:
                self._again.append(_SOON)
            self._when_due(target, kept)
            return False
        if seen.condition is Condition.STOPPING:
            self._nodes[target.key] = kept
            self._again.append(_SOON)
            return False
        if seen.condition is Condition.FAILED:
            if kept.waiting and seen.since <= kept.failed_at:
                self._when_due(target, kept)
            else:
                self._fail(target, kept, seen.message or "it ended")
            return False
        return self._running(target, kept, seen)

    def _running(self, target: WantedNode, kept: Attempts, seen: ObservedNode) -> bool:
        if kept.waiting and seen.since <= kept.failed_at and not (kept.given_up and seen.healthy):
            # Still the instance whose failure was counted, after it was unhealthy for too long. After all attempts it may run
            # until the next one, since it may recover.
            self._nodes[target.key] = kept
            if kept.given_up and self._now < kept.not_before:
                self._again.append(min(target.health.interval, kept.not_before - self._now))
            else:
                self._halt(target)
            return False
        if seen.healthy is True:
            unproved = 0.0 if target.health.checks else seen.since + target.health.min_uptime - self._now
            if unproved > 0:
                self._nodes[target.key] = kept
                self._again.append(unproved)
                return False
            since = self._now if kept.healthy_since is None else kept.healthy_since
            kept = replace(kept, unhealthy_since=None, healthy_since=since)
            self._nodes[target.key] = replace(kept, waiting=False, given_up="")
            self._again.append(STEADY if target.type in self._wanted.told else target.health.interval)
            return True
        # The timeout runs from the later of its start and its last health, so a slow caller does not shorten it.
        since = max(seen.since, self._now if kept.unhealthy_since is None else kept.unhealthy_since)
        kept = replace(kept, unhealthy_since=since, healthy_since=None)
        if self._now - since >= target.health.timeout:
            self._fail(target, kept, f"not healthy for {target.health.timeout:g} s: {seen.message or 'no response'}")
            if not self._nodes[target.key].given_up:
                self._halt(target)
            return False
        self._nodes[target.key] = kept
        self._again.append(min(target.health.interval, _STARTING, max(0.0, since + target.health.timeout - self._now)))
        return False

    def _fail(self, target: WantedNode, kept: Attempts, message: str) -> None:
        """Count a failure once, and recreate the node when its backoff has passed."""
        failures, most = kept.failures + 1, self._wanted.attempts
        given_up = kept.given_up
        if failures > most:
            # Its first reason stays: the order's outcome does not change with every further attempt.
            given_up = given_up or f"{message} (after {most} further attempts)"
        wait = Backoff(self._wanted.backoff, self._wanted.backoff_limit).delay(failures)
        due = self._now + wait
        kept = replace(kept, failures=failures, not_before=due, failed_at=self._now, waiting=True, healthy_since=None)
        kept = replace(kept, reason=message, given_up=given_up)
        self._when_due(target, kept, f"{message}; attempt {failures} of {most} in {wait:g} s")

    def _when_due(self, target: WantedNode, kept: Attempts, problem: str = "") -> None:
        left = kept.not_before - self._now
        if left > 0:
            self._problems.append(f"{target.key}: {problem or f'{kept.reason}; waiting to be recreated'}")
            self._nodes[target.key] = kept
            self._again.append(left)
            return
        if kept.waiting:
            self._problems.append(f"{target.key}: recreated, attempt {kept.failures} of {self._wanted.attempts}")
        self._nodes[target.key] = replace(kept, unhealthy_since=None)
        self._ensure(target)

    def _ensure(self, target: WantedNode) -> None:
        self._steps.append(Ensure(target))
        self._again.append(_SOON)

    def _halt(self, target: WantedNode) -> None:
        self._steps.append(Halt(target.key, target.type))
        self._again.append(_SOON)

    def _remove_extras(self, *, complete: bool) -> None:
        nodes = self._wanted.description.nodes
        surplus: dict[str, ObservedNode] = {}
        for key, seen in self._observed.items():
            node = nodes.get(seen.node)
            # Nodes that left the description stay until the rest is complete; surplus instances are removed at once.
            gone = node is None and complete
            if gone or (node is not None and key not in self._wanted.keys(node)):
                surplus[key] = seen
        if surplus:
            self._steps.extend(RemoveNode(node.key, node.type) for node in _last(surplus))
            self._again.append(_SOON)
        for key in list(self._nodes):
            name = key.rpartition(".")[0]
            if name not in nodes or key not in self._wanted.keys(nodes[name]):
                del self._nodes[key]


def with_errors(record: StackRecord, errors: Mapping[str, str], now: float) -> StackRecord:
    """Return the record with failed steps' errors, by key; the next iteration counts each as a failure of its node."""
    nodes = dict(record.nodes)
    for key, error in errors.items():
        nodes[key] = replace(nodes.get(key, Attempts()), error=error, failed_at=now)
    return replace(record, nodes=nodes)


def scaled(wanted: WantedNodes, node: str, *, count: int | None = None, by: int | None = None) -> dict[str, int]:
    """Return the counts after scaling one node to `count` or by `by`. Raises ValueError if they are out of bounds."""
    nodes = wanted.description.nodes
    if node not in nodes:
        raise ValueError(f"unknown node {node!r}; expected one of {', '.join(nodes)}")
    if (count is None) == (by is None):
        raise ValueError("scaling requires either a count or a difference")
    target = nodes[node]
    new = count if count is not None else wanted.count(target) + (by or 0)
    if not target.minimum <= new <= target.maximum:
        raise ValueError(f"{node!r} has {target.minimum} to {target.maximum} instances; {new} is out of bounds")
    return {**wanted.counts, node: new}
