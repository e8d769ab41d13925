"""Stacks of Heat. One call of `advance` looks at the stack and takes the step that is next; none waits for Heat to finish.

Heat itself says how far it is: a stack carries the digest of what was ordered last, and its state. So nothing has to be
remembered here to be right, and a call that is repeated after a crash finds what the former made. The record only spares
requests, and holds which order was tried, so that what failed is tried again when it is ordered again and not before.

One thing Heat does not say: that the engine which worked on a stack has died. It then shows the stack as in progress for ever. So
where nothing has moved in a stack for long, Heat is told the same again, which it takes up wherever it was left, and which
disturbs nothing where an engine is at work after all (ADR 020).
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import keystoneauth1.exceptions
from heatclient.v1.client import Client

from archelon_core.backoff import Backoff

from ...core.labels import Labels
from ..interface import DeployError, Progress, StackOrder, StackResource
from . import resources
from .connection import ConflictError, HeatConnections, NotFoundError
from .orders import Request, labels_of, request_of, stack_name
from .scaling import scaled

#: Stands where a secret stood.
HIDDEN: Final = "[hidden]"
#: Seconds after which a stack that Heat works on is looked at although the region's watcher told nothing.
_WITHOUT_A_WORD: Final = 60.0
#: Seconds after which what Heat could not delete is deleted again.
_AGAIN: Final = Backoff(5.0, longest=300.0)
_SOON: Final = 0.2
#: Seconds in which a failed create begins to be rolled back.
_UNTIL_ROLLBACK: Final = 10.0
#: Seconds after which Heat is told again what to do with a stack in which nothing moves; four times as many each time, since a
#: deletion that is told again begins anew.
_STALLED: Final = 120.0
#: Seconds in which what Heat was told to do is to be seen.
_UNTIL_SEEN: Final = 15.0
#: Seconds in which Heat may still make a stack although its answer was not waited for.
_UNTIL_MADE: Final = 60.0
#: Characters of a reason.
_LONGEST_REASON: Final = 1000
_CHANGES: Final = {
    "added": "CREATE",
    "updated": "UPDATE",
    "replaced": "REPLACE",
    "deleted": "DELETE",
    "unchanged": "KEEP",
}

Answer = TypeVar("Answer")


class HeatStacks:
    """Carries out orders of the format `hot`.

    Args:
        stalled: seconds after which Heat is told again what to do with a stack in which nothing moves.
        clock: seconds since the epoch.
        checkpoint: called with a name at every point where being killed could matter.
    """

    def __init__(
        self,
        connections: HeatConnections,
        *,
        stalled: float = _STALLED,
        clock: Callable[[], float] = time.time,
        checkpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._connections = connections
        self._stalled = Backoff(stalled, longest=stalled * 4.0**8, factor=4.0)
        self._look = min(_WITHOUT_A_WORD, stalled / 2)
        self._clock = clock
        self._checkpoint = checkpoint

    def validate(self, order: StackOrder) -> None:
        """Read template, environments and files and check the parameters; asks nobody. Raises DeployError."""
        request_of(order)

    def preview(self, order: StackOrder, record: Mapping[str, Any] | None) -> Sequence[StackResource]:
        """What Heat would do, resource by resource."""
        request = request_of(order)

        def ask(client: Client) -> list[StackResource]:
            present = _get(client, stack_name(order))
            if present is None:
                drafted = client.stacks.preview(stack_name=stack_name(order), **request.body)
                return [StackResource(way, each["resource_type"], "", "CREATE") for way, each in _drafted(drafted)]
            answer = client.stacks.preview_update(_path(present), **request.body)
            changes = answer["resource_changes"]
            return [
                StackResource(each["resource_name"], each["resource_type"], each["physical_resource_id"] or "", word)
                for key, word in _CHANGES.items()
                for each in changes.get(key, ())
            ]

        return self._call(order.labels, ask, request.secrets)

    def scale(
        self, order: StackOrder, node: str, *, count: int | None = None, by: int | None = None
    ) -> Mapping[str, int]:
        """The order's counts after scaling. Raises DeployError."""
        return scaled(request_of(order).template, order.counts, node, parameters=order.parameters, count=count, by=by)

    def signal(self, order: StackOrder, resource: str, data: Mapping[str, Any]) -> None:
        """Signal a resource, by its way down where it is in a nested stack. Raises DeployError."""

        def tell(client: Client) -> None:
            present = _get(client, stack_name(order))
            found = None if present is None else resources.locate(client, _path(present), resource)
            if found is None:
                raise DeployError(f"the stack has no resource {resource[:120]!r} that could be signalled")
            # A handle that is signalled while Heat still makes it is never finished; a deployment waits for it half made.
            is_handle = found.type.endswith("WaitConditionHandle")
            if not found.id or (is_handle and found.state.endswith("IN_PROGRESS")):
                raise DeployError(f"{found.path} is not made yet, and takes no signal; signal it again")
            client.resources.signal(found.stack, found.name, data=dict(data))

        self._call(order.labels, tell, ())

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """Look, and take the next step. Raises DeployError where the order can never be carried out."""
        kept = dict(record or {})
        if order.presence == "absent":
            return self._call(order.labels, lambda client: self._away(client, order, kept), ())
        request = request_of(order)
        progress = self._call(order.labels, lambda client: self._towards(client, order, request, kept), request.secrets)
        return replace(progress, reason=without(progress.reason, request.secrets)[:_LONGEST_REASON])

    def remains(self, order: StackOrder) -> Sequence[str]:
        """The stack, while Heat has it."""
        present = self._call(order.labels, lambda client: _get(client, stack_name(order)), ())
        return [] if present is None else [f"stack {present.stack_name} ({present.id}) {present.stack_status}"]

    # towards what should be -------------------------------------------------------------------------------------------

    def _towards(self, client: Client, order: StackOrder, request: Request, kept: dict[str, Any]) -> Progress:
        present = _get(client, kept.get("path") or stack_name(order))
        if present is None:
            if self._clock() - kept.get("sent", -math.inf) < _UNTIL_SEEN:
                # A second request could make a second stack of the same name: Heat looks for one, and then makes its own.
                return Progress(kept, "CREATE_IN_PROGRESS", "", None, None, again=1.0)
            return self._create(client, order, request)
        kept["path"] = _path(present)
        kept.pop("sent", None)
        action, _, status = present.stack_status.partition("_")
        is_ordered = labels_of(present.tags)[1] == request.revision
        # What failed is tried again when it is ordered again.
        is_tried = kept.get("version") == order.version
        if status == "IN_PROGRESS":
            if is_ordered or action in ("SUSPEND", "RESUME"):
                kept["version"] = order.version
            kept.pop("told", None)
            if self._is_still(client, present, kept):
                self._tell_again(client, order, request, present)
            return self._moving(present, kept)
        if action == "DELETE":
            client.stacks.delete(_path(present))
            return Progress(kept, "DELETE_IN_PROGRESS", "", None, None, again=_SOON)
        if present.stack_status == "CREATE_FAILED" and not present.disable_rollback:
            # Heat is about to roll back; if it was killed right here, it never will.
            since = kept.setdefault("failed", self._clock())
            if self._clock() - since < _UNTIL_ROLLBACK:
                return replace(self._moving(present, kept, "ROLLBACK_IN_PROGRESS"), again=1.0)
        failed = status == "FAILED" or action == "ROLLBACK"
        if order.presence == "suspended":
            if action == "SUSPEND" and (not failed or is_tried):
                return self._settled(client, present, kept, order)
            if failed and (action not in ("SUSPEND", "RESUME") or is_tried):
                return self._settled(client, present, kept, order)
            return self._told("SUSPEND", client.actions.suspend, present, kept=kept, order=order)
        if action == "SUSPEND" or (action == "RESUME" and failed and not is_tried):
            return self._told("RESUME", client.actions.resume, present, kept=kept, order=order)
        if is_ordered and (not failed or is_tried or action == "RESUME"):
            return self._settled(client, present, kept, order)
        return self._update(client, order, request, present=present, kept=kept)

    def _create(self, client: Client, order: StackOrder, request: Request) -> Progress:
        self._checkpoint("before create")
        try:
            made = client.stacks.create(
                stack_name=stack_name(order), disable_rollback=not order.rollback, **request.body
            )
        except ConflictError:
            # Somebody was quicker, such as the call that this one repeats.
            return Progress({}, "CREATE_IN_PROGRESS", "", None, None, again=_SOON)
        except keystoneauth1.exceptions.ConnectTimeout:
            # Not only the connection's: the answer's too. Heat may have the request, and carry it out when nobody asks any more.
            return Progress({"sent": self._clock()}, "CREATE_IN_PROGRESS", "", None, None, again=1.0)
        self._checkpoint("after create")
        kept = {"path": f"{stack_name(order)}/{made['stack']['id']}", "version": order.version}
        return Progress({**kept, "moving": True}, "CREATE_IN_PROGRESS", "", None, None, self._look, made["stack"]["id"])

    def _update(
        self, client: Client, order: StackOrder, request: Request, *, present: Any, kept: dict[str, Any]
    ) -> Progress:
        def update(path: str) -> None:
            # A failed update stays, for a look at it: what stood before is not always to be had again.
            client.stacks.update(path, disable_rollback=True, **request.body)

        return self._told("UPDATE", update, present, kept=kept, order=order)

    def _told(
        self, doing: str, tell: Callable[[str], None], present: Any, *, kept: dict[str, Any], order: StackOrder
    ) -> Progress:
        """Tell Heat to do something, once for each order: it may be a moment until it shows."""
        told = [doing, order.version]
        if kept.get("told") == told and self._clock() - kept["at"] < _UNTIL_SEEN:
            return replace(self._moving(present, kept, f"{doing}_IN_PROGRESS"), again=_SOON)
        self._checkpoint(f"before {doing.lower()}")
        try:
            tell(_path(present))
        except ConflictError:
            # It is busy with something else; then this comes next.
            return replace(self._moving(present, kept, f"{doing}_IN_PROGRESS"), again=_SOON)
        self._checkpoint(f"after {doing.lower()}")
        kept |= {"version": order.version, "told": told, "at": self._clock()}
        kept.pop("still", None)
        return self._moving(present, kept, f"{doing}_IN_PROGRESS")

    def _settled(self, client: Client, present: Any, kept: dict[str, Any], order: StackOrder) -> Progress:
        found = resources.resources_of(client, _path(present))
        outputs: dict[str, Any] = {}
        reason = ""
        state = present.stack_status
        if state.endswith("_FAILED") or state.startswith("ROLLBACK"):
            reason = _reason(client, present, found)
        else:
            full = client.stacks.get(_path(present))
            outputs = {
                each["output_key"]: each["output_value"] for each in full.outputs if each["output_value"] is not None
            }
        kept |= {"version": order.version, "state": state, "updated": _updated(present)}
        for name in ("moving", "still", "deletes", "failed", "told", "at"):
            kept.pop(name, None)
        return Progress(kept, state, reason, outputs, resources.shown(found), None, present.id)

    # away -------------------------------------------------------------------------------------------------------------

    def _away(self, client: Client, order: StackOrder, kept: dict[str, Any]) -> Progress:
        present = _get(client, stack_name(order))
        if present is None:
            if self._clock() - kept.get("sent", -math.inf) < _UNTIL_MADE:
                return Progress(kept, "DELETE_IN_PROGRESS", "", None, None, again=1.0)
            return Progress({}, "DELETE_COMPLETE", "", {}, ())
        kept.pop("sent", None)
        kept["path"] = _path(present)
        if present.stack_status == "DELETE_IN_PROGRESS":
            if self._is_still(client, present, kept):
                client.stacks.delete(_path(present))
            return self._moving(present, kept)
        kept.pop("still", None)
        if present.stack_status == "DELETE_FAILED":
            tries, since = kept.get("deletes", (0, 0.0))
            pause = _AGAIN.delay(tries + 1)
            waited = self._clock() - since
            if tries and waited < pause:
                found = resources.resources_of(client, _path(present))
                reason = _reason(client, present, found)
                kept.pop("moving", None)
                return Progress(kept, "DELETE_FAILED", reason, None, resources.shown(found), pause - waited, present.id)
            kept["deletes"] = (tries + 1, self._clock())
        elif "deletes" not in kept:
            kept["deletes"] = (1, self._clock())
        self._checkpoint("before delete")
        client.stacks.delete(_path(present))
        self._checkpoint("after delete")
        return self._moving(present, kept, "DELETE_IN_PROGRESS")

    # under way --------------------------------------------------------------------------------------------------------

    def _moving(self, stack: Any, kept: dict[str, Any], state: str = "") -> Progress:
        kept["moving"] = True
        return Progress(kept, state or stack.stack_status, "", None, None, self._look, stack.id)

    def _is_still(self, client: Client, present: Any, kept: dict[str, Any]) -> bool:
        """Whether nothing has moved in a stack for so long that Heat is to be told again; True once for each time that it is."""
        now = self._clock()
        seen = resources.moment(client, _path(present))
        known = kept.get("still")
        if known is None or known["seen"] != seen:
            kept["still"] = {"seen": seen, "since": now, "told": 0}
            return False
        if now - known["since"] < self._stalled.delay(known["told"] + 1):
            return False
        kept["still"] = {**known, "told": known["told"] + 1}
        return True

    def _tell_again(self, client: Client, order: StackOrder, request: Request, present: Any) -> None:
        path = _path(present)
        with contextlib.suppress(ConflictError):
            # A conflict: the engine that works on it is alive, and does not take this in the middle of something.
            if present.stack_status.startswith("SUSPEND"):
                client.actions.suspend(path)
            elif present.stack_status.startswith("RESUME"):
                client.actions.resume(path)
            else:
                client.stacks.update(path, disable_rollback=True, **request.body)

    # ------------------------------------------------------------------------------------------------------------------

    def _call(self, labels: Labels, do: Callable[[Client], Answer], secrets: Sequence[str]) -> Answer:
        """Call Heat, and take secrets out of what it says: it repeats values in its errors."""
        try:
            return self._connections.call(labels, do)
        except DeployError as problem:
            raise DeployError(without(str(problem), secrets)) from problem


def _get(client: Client, name: str) -> Any:
    """A stack as it is, without its outputs; None where there is none any more."""
    try:
        found = client.stacks.get(name, resolve_outputs=False)
    except NotFoundError:
        return None
    return None if found.stack_status == "DELETE_COMPLETE" else found


def _path(stack: Any) -> str:
    return f"{stack.stack_name}/{stack.id}"


def _updated(stack: Any) -> str:
    return str(stack.updated_time or stack.creation_time or "")


def _reason(client: Client, stack: Any, found: Sequence[resources.Found]) -> str:
    """Why a stack failed, with the names of the resources that did."""
    told = resources.failures(found)
    said = str(stack.stack_status_reason or "")
    if stack.stack_status.startswith("ROLLBACK"):
        # What failed was taken away again, and its events alone still tell.
        failed = _from_events(client, stack)
        told = "; ".join(each for each in (failed and f"create failed: {failed}", told) if each)
    return " ".join((told or said).split())


def _from_events(client: Client, stack: Any) -> str:
    # Those of the stack alone, the newest first: of stacks inside it that are gone Heat lists none.
    events = client.events.list(_path(stack))
    failed: dict[str, str] = {}
    for each in reversed(events):
        own = getattr(each, "resource_name", "") not in ("", stack.stack_name)
        reason = str(each.resource_status_reason or "")
        if own and each.resource_status == "CREATE_FAILED" and "aborted" not in reason:
            failed.setdefault(each.resource_name, reason)
    return "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:3])


def _drafted(stack: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The resources of a preview, which stand in lists inside one another."""
    found: list[tuple[str, Mapping[str, Any]]] = []

    def take(each: Any) -> None:
        if isinstance(each, dict):
            found.append((each["resource_name"], each))
        else:
            for inner in each:
                take(inner)

    take(stack.resources)
    return found


def without(text: str, secrets: Sequence[str]) -> str:
    """A text in which secrets are hidden."""
    for secret in secrets:
        if secret:
            # As a word of its own: a secret such as `a` would make everything unreadable.
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text
