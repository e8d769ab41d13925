"""Stacks of the format `infrastructure`: descriptions, made of the resource types of a platform.

One call of `advance` is one reconcile iteration: observe, check health, plan, carry out the steps, report. After steps it
iterates again, and waits briefly for their result, so that a stack whose nodes start or end quickly takes one call. All state is
in the planning's record and on the platform, so any process may make the next call.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from bundles.infrastructure.description import Description
from bundles.infrastructure.parsing import parse
from bundles.infrastructure.rendering import DescriptionError

from ..infrastructure.apart import check_description
from ..infrastructure.planning import STEADY, Ensure, Halt, StackRecord, Step, plan, scaled, with_errors
from ..infrastructure.resolving import WantedNodes, checked_parameters, key_of, outputs, resolve
from ..infrastructure.resources import Condition, NodeError, ObservedNode, ResourceType, WantedNode
from .health import Check
from .interface import DeployError, Log, Progress, StackOrder, StackResource, UnknownNodeError
from .node_output import TAIL, ShowsOutput, with_output
from .recurring_checks import Checked, Telling

#: Concurrent steps: enough that a slow one does not block the rest, few enough for a small machine.
_AT_ONCE = 8
#: Calls that wait at once: half of a worker's threads, so that slow nodes never occupy all of them.
_WAITING_AT_ONCE = 4
#: Parsed descriptions that are kept.
_PARSED = 64
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class _Text:
    """A description's text and files; equal if the digests are."""

    digest: bytes
    template: str = field(compare=False, repr=False)
    files: Mapping[str, str] = field(compare=False, repr=False)

    @classmethod
    def of(cls, order: StackOrder) -> _Text:
        content = json.dumps([order.template, dict(order.files)], sort_keys=True)
        return cls(hashlib.sha256(content.encode()).digest(), order.template, order.files)


class DeclarativeStacks:
    """Carries out descriptions with the given resource types.

    Args:
        types: by name, as in `resource: {type: …}`.
        clock: seconds since the epoch.
        attempts, backoff: how often a failed node is recreated before its order fails, and seconds before the first attempt.
        soonest: minimum seconds between two calls; observing is more expensive on some platforms.
        patience: seconds that one call waits for the result of its steps, such as the health of the nodes that it has started.
        watcher: tells of changes of the types that are `Checked`; None: every stack is polled.
        chance: returns numbers in [0, 1), so that stacks are not looked at all at once.
        checkpoint: called with a name wherever a kill could matter.
    """

    def __init__(
        self,
        types: Mapping[str, ResourceType],
        *,
        clock: Callable[[], float] = time.time,
        attempts: int = 3,
        backoff: float = 1.0,
        soonest: float = 0.0,
        patience: float = 0.0,
        watcher: Telling | None = None,
        chance: Callable[[], float] = random.random,
        checkpoint: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._types = dict(types)
        self._clock = clock
        self._attempts = attempts
        self._backoff = backoff
        self._soonest = soonest
        self._patience = patience
        self._waiting = threading.BoundedSemaphore(_WAITING_AT_ONCE)
        self._watcher = watcher
        self._chance = chance
        self._parsed = functools.lru_cache(_PARSED)(self._parse)
        self._checkpoint = checkpoint

    def validate(self, order: StackOrder) -> None:
        """Parse and check description and parameters. Raises DeployError."""
        _check_id(order)
        try:
            check_description(
                order.template,
                files=order.files,
                types=self._types,
                parameters=order.parameters,
                tenant=order.labels.tenant,
            )
        except DescriptionError as problem:
            raise DeployError(str(problem)) from problem

    def preview(self, order: StackOrder, record: Mapping[str, Any] | None) -> Sequence[StackResource]:
        """Return what the order would change, by instance of a node."""
        wanted = self._wanted(order)
        observed = self._observe(order.id)
        found = []
        kept: set[str] = set()
        for name in wanted.description.order() if wanted.presence == "present" else ():
            node = wanted.description.nodes[name]
            for index in range(wanted.count(node)):
                key = key_of(name, index)
                kept.add(key)
                seen = observed.get(key)
                target = resolve(wanted, node, index, observed)
                same = seen is not None and not isinstance(target, str) and seen.revision == target.revision
                change = "CREATE" if seen is None else "KEEP" if same else "UPDATE"
                found.append(StackResource(key, node.implementation.type, _id(seen), change))
        found += [
            StackResource(key, seen.type, _id(seen), "DELETE") for key, seen in observed.items() if key not in kept
        ]
        return found

    def scale(
        self, order: StackOrder, node: str, *, count: int | None = None, by: int | None = None
    ) -> Mapping[str, int]:
        """Return the order's counts after scaling. Raises DeployError."""
        try:
            return scaled(self._wanted(order), node, count=count, by=by)
        except DescriptionError:
            raise
        except ValueError as problem:
            raise DeployError(str(problem)) from problem

    def signal(self, order: StackOrder, resource: str, data: Mapping[str, Any]) -> None:
        """Reject any signal: nodes report readiness by their health. Raises DeployError."""
        raise DeployError("nothing on this platform waits for a signal; a node's health check reports when it is ready")

    def read_log(self, order: StackOrder, node: str, since: int = 0) -> Log:
        """Return a node's output from position `since` on. Raises UnknownNodeError."""
        shows: object
        for shows in self._types.values():
            found = shows.read_log(order.id, node, since) if isinstance(shows, ShowsOutput) else None
            if found is not None:
                return found
        known = ", ".join(sorted(self._observe(order.id))[:20]) or "none"
        raise UnknownNodeError(
            f"the stack has no node {node[:120]!r} whose output can be read; expected one of {known}"
        )

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """Run one reconcile iteration. Raises DeployError if the order can never be carried out."""
        # A stack can be removed even if its description is no longer valid.
        if order.presence == "absent":
            wanted = WantedNodes(order.id, Description(order.name, {}, {}, {}), order.labels, presence="absent")
        else:
            wanted = self._wanted(order)
        kept = StackRecord.from_json(record) if record else None
        progress, has_acted = self._iterate(order, wanted, kept)
        if not has_acted or not self._patience or not self._waiting.acquire(blocking=False):
            return progress
        try:
            until = time.monotonic() + self._patience
            while has_acted and (left := until - time.monotonic()) > 0:
                progress, has_acted = self._iterate(order, wanted, StackRecord.from_json(progress.record), wait=left)
        finally:
            self._waiting.release()
        return progress

    def _iterate(
        self, order: StackOrder, wanted: WantedNodes, kept: StackRecord | None, *, wait: float = 0.0
    ) -> tuple[Progress, bool]:
        """Run one iteration; also return whether it carried out steps, whose result another iteration could observe.

        Args:
            wait: seconds to wait for nodes that do not pass their check yet.
        """
        observed = self._observe(order.id)
        checks: list[tuple[Check, float]] = []
        if wanted.presence == "present":
            observed, checks = self._with_health(wanted, observed, wait)
        now = self._clock()
        if wanted.presence == "present":
            observed = self._with_output(wanted, observed, kept=kept, secrets=order.secrets, now=now)
        planned = plan(wanted, kept, observed, now)
        errors = self._carry_out(order.id, planned.steps)
        kept = with_errors(planned.record, errors, self._clock()) if errors else planned.record
        again = planned.again
        if self._watcher is not None:
            # Those that the next step would come too late for.
            self._watcher.check(order.id, [each for each in checks if again is not None and each[1] < again])
        if again is not None and again >= STEADY:
            again *= 1 - self._chance() / 4
        progress = Progress(
            record=kept.to_json(),
            state=kept.state,
            reason=kept.reason,
            outputs=outputs(wanted, observed) if wanted.presence == "present" else {},
            resources=[
                StackResource(key, seen.type, _id(seen), seen.condition.value, "compute")
                for key, seen in sorted(observed.items())
            ],
            again=None if again is None else max(again, self._soonest),
            health=planned.health,
        )
        return progress, bool(planned.steps) and not errors

    def remains(self, order: StackOrder) -> Sequence[str]:
        """Return what is left of the stack, for messages."""
        return [f"{seen.type} {key}" for key, seen in self._observe(order.id).items()]

    def _wanted(self, order: StackOrder) -> WantedNodes:
        _check_id(order)
        try:
            description = self._parsed(_Text.of(order))
            parameters = checked_parameters(description, order.parameters)
        except DescriptionError as problem:
            raise DeployError(str(problem)) from problem
        return WantedNodes(
            stack=order.id,
            description=description,
            labels=order.labels,
            parameters=parameters,
            counts=order.counts,
            presence=order.presence,
            attempts=self._attempts,
            backoff=self._backoff,
            rollback=order.rollback,
            told=self._told(),
        )

    def _parse(self, text: _Text) -> Description:
        return parse(text.template, files=text.files, types=self._types)

    def _told(self) -> frozenset[str]:
        if self._watcher is None or not self._watcher.tells:
            return frozenset()
        return frozenset(name for name, type_ in self._types.items() if isinstance(type_, Checked))

    def _observe(self, stack: str) -> dict[str, ObservedNode]:
        found: dict[str, ObservedNode] = {}
        for type_ in self._types.values():
            found.update((seen.key, seen) for seen in type_.observe(stack))
        return found

    def _with_health(
        self, wanted: WantedNodes, observed: Mapping[str, ObservedNode], wait: float
    ) -> tuple[dict[str, ObservedNode], list[tuple[Check, float]]]:
        """Add the nodes' health; also return the checks that a watcher is to repeat, and their intervals."""
        asked: dict[str, list[tuple[WantedNode, ObservedNode]]] = {}
        for node in wanted.description.nodes.values():
            for index in range(wanted.count(node)):
                seen = observed.get(key_of(node.name, index))
                if seen is None or seen.condition is not Condition.RUNNING or seen.healthy is not None:
                    continue
                target = resolve(wanted, node, index, observed)
                if not isinstance(target, str) and target.revision == seen.revision:
                    asked.setdefault(target.type, []).append((target, seen))
        found = dict(observed)
        checks = []
        for name, pairs in asked.items():
            type_ = self._types[name]
            wrong = type_.healthy(pairs, wait)
            for target, seen in pairs:
                found[target.key] = replace(seen, healthy=not wrong[target.key], message=wrong[target.key])
                if name in wanted.told and target.health.checks and isinstance(type_, Checked):
                    checks.append((type_.check_of(target, seen), target.health.interval))
        return found, checks

    def _with_output(
        self,
        wanted: WantedNodes,
        observed: Mapping[str, ObservedNode],
        *,
        kept: StackRecord | None,
        secrets: Collection[str],
        now: float,
    ) -> dict[str, ObservedNode]:
        """Add the last lines of output to the message of each node that failed, or that now fails by its timeout.

        Not earlier: the message is part of the stack's health, which is reported whenever it changes.
        """
        found = dict(observed)
        hidden = {name for name, each in wanted.description.parameters.items() if each.secret}.union(secrets)
        values = [str(wanted.parameters[name]) for name in sorted(hidden & wanted.parameters.keys())]
        for key, seen in observed.items():
            node = wanted.description.nodes.get(seen.node)
            shows: object = self._types.get(seen.type)
            if node is None or not isinstance(shows, ShowsOutput):
                continue
            unhealthy_since = kept.nodes[key].unhealthy_since if kept is not None and key in kept.nodes else None
            since = max(seen.since, now if unhealthy_since is None else unhealthy_since)
            is_overdue = seen.healthy is False and now - since >= node.implementation.health.timeout
            if seen.condition is not Condition.FAILED and not is_overdue:
                continue
            output = shows.read_tail(wanted.stack, key, TAIL)
            found[key] = replace(seen, message=with_output(seen.message, output, values))
        return found

    def _carry_out(self, stack: str, steps: Sequence[Step]) -> dict[str, str]:
        """Carry out the steps concurrently; return the errors of failed ones, by key."""
        errors: dict[str, str] = {}

        def carry_out(step: Step) -> None:
            try:
                if isinstance(step, Ensure):
                    self._types[step.node.type].ensure(step.node)
                elif isinstance(step, Halt):
                    self._types[step.type].halt(stack, step.key)
                else:
                    self._types[step.type].remove(stack, step.key)
            except NodeError as problem:
                errors[step.key] = str(problem)

        if not steps:
            return errors
        self._checkpoint("planned")
        with ThreadPoolExecutor(min(_AT_ONCE, len(steps))) as pool:
            list(pool.map(carry_out, steps))
        self._checkpoint("steps taken")
        return errors


def _check_id(order: StackOrder) -> None:
    if not _ID.fullmatch(order.id):
        raise DeployError(f"{order.id!r} cannot be a stack's id; use up to 64 letters, digits, '-' and '_'")


def _id(seen: ObservedNode | None) -> str:
    return str(seen.attributes.get("id", "")) if seen is not None else ""
