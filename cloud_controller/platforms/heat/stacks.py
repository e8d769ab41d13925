"""Stacks of Heat. Each call of `advance` reads the stack and takes the next step, without waiting for Heat to finish.

Heat holds the state: a stack carries the digest of its last order. A call that is repeated after a crash therefore finds the
result of the previous one. The record only saves requests, and keeps the version of the order that was tried, so that a failed
order is retried only when it is ordered again.

Heat does not notice when the engine that works on a stack dies; the stack stays in progress forever. After a long time without
progress the request is therefore repeated: Heat resumes where the stack was left, and a living engine is not disturbed (ADR 020).
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import keystoneauth1.exceptions
import requests
from heatclient.v1.client import Client

from archelon_core.backoff import Backoff

from ...core.labels import Labels
from ..interface import DeployError, Log, Progress, StackOrder, StackResource, UnknownNodeError
from . import resources
from .connection import ConflictError, HeatConnections, NotFoundError
from .orders import Request, labels_of, request_of, stack_name
from .scaling import scaled

#: Replaces a secret.
HIDDEN: Final = "[hidden]"
#: Seconds between polls of a stack in progress without a notification from the watcher.
_POLL_INTERVAL: Final = 60.0
#: Pause before a failed deletion is retried.
_DELETE_BACKOFF: Final = Backoff(5.0, longest=300.0)
_SOON: Final = 0.2
#: Seconds within which the rollback of a failed create begins.
_UNTIL_ROLLBACK: Final = 10.0
#: Seconds without progress after which a request is repeated; four times as many each time, since a repeated deletion starts
#: over.
_STALLED: Final = 120.0
#: Seconds within which an accepted request shows in the stack's state.
_UNTIL_SEEN: Final = 15.0
#: Seconds within which Heat may still create a stack after the request timed out.
_UNTIL_CREATED: Final = 60.0
#: Maximum length of a reason.
_LONGEST_REASON: Final = 1000
#: Maximum bytes of a piece of a console's output.
_PIECE: Final = 64 << 10
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
        stalled: seconds without progress in a stack after which the request to Heat is repeated.
        clock: seconds since the epoch.
        checkpoint: called with a name before and after each request, for crash tests.
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
        self._poll_interval = min(_POLL_INTERVAL, stalled / 2)
        self._clock = clock
        self._checkpoint = checkpoint

    def validate(self, order: StackOrder) -> None:
        """Read template, environments and files and check the parameters, without requests. Raises DeployError."""
        request_of(order)

    def preview(self, order: StackOrder, record: Mapping[str, Any] | None) -> Sequence[StackResource]:
        """Return what Heat would do, resource by resource."""
        request = request_of(order)

        def query(client: Client) -> list[StackResource]:
            present = _get(client, stack_name(order))
            if present is None:
                preview = client.stacks.preview(stack_name=stack_name(order), **request.body)
                return [
                    StackResource(each["resource_name"], each["resource_type"], "", "CREATE")
                    for each in _flattened(preview.resources)
                ]
            changes = client.stacks.preview_update(_path(present), **request.body)["resource_changes"]
            return [
                StackResource(each["resource_name"], each["resource_type"], each["physical_resource_id"] or "", state)
                for key, state in _CHANGES.items()
                for each in changes.get(key, ())
            ]

        return self._call(order.labels, query, request.secrets)

    def scale(
        self, order: StackOrder, node: str, *, count: int | None = None, by: int | None = None
    ) -> Mapping[str, int]:
        """Return the order's counts after scaling. Raises DeployError."""
        return scaled(request_of(order).template, order.counts, node, parameters=order.parameters, count=count, by=by)

    def signal(self, order: StackOrder, resource: str, data: Mapping[str, Any]) -> None:
        """Signal a resource, by its path if it is in a nested stack. Raises DeployError."""

        def send(client: Client) -> None:
            present = _get(client, stack_name(order))
            found = None if present is None else resources.locate(client, _path(present), resource)
            if found is None:
                raise DeployError(f"the stack has no resource {resource[:120]!r} to signal")
            # A signal to a handle in creation blocks it forever; a deployment may be signalled during its creation.
            is_handle = found.type.endswith("WaitConditionHandle")
            if not found.id or (is_handle and found.state.endswith("IN_PROGRESS")):
                raise DeployError(f"{found.path} is not created yet and accepts no signals; retry")
            client.resources.signal(found.stack, found.name, data=dict(data))

        self._call(order.labels, send, ())

    def read_log(self, order: StackOrder, node: str, since: int = 0) -> Log:
        """Return what Nova has of a server's console from byte `since` on. Raises DeployError."""

        def find(client: Client) -> resources.FoundResource | None:
            present = _get(client, stack_name(order))
            return None if present is None else resources.locate(client, _path(present), node)

        found = self._call(order.labels, find, ())
        if found is None or not found.id:
            raise UnknownNodeError(f"the stack has no resource {node[:120]!r}, or it is not created yet")
        if not found.type.endswith("Nova::Server"):
            raise DeployError(f"{found.path} is of the type {found.type}; only a server has output, its console's")
        answer = self._connections.send(
            order.labels, "compute", "POST", f"/servers/{found.id}/action", document={"os-getConsoleOutput": {}}
        )
        if answer.status_code != requests.codes.ok:
            raise DeployError(f"Nova does not return the console of {found.path}: status {answer.status_code}")
        console = str(answer.json().get("output") or "").encode()
        # Nova may have fewer bytes than before, if the server was rebuilt.
        start = min(since, len(console))
        data = console[start : start + _PIECE]
        return Log(data, start, start + len(data))

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """Take the next step. Raises DeployError if the order can never be carried out."""
        kept = dict(record or {})
        if order.presence == "absent":
            return self._call(order.labels, lambda client: self._ensure_absent(client, order, kept), ())
        request = request_of(order)
        progress = self._call(
            order.labels, lambda client: self._ensure_present(client, order, request, kept), request.secrets
        )
        return replace(progress, reason=redact(progress.reason, request.secrets)[:_LONGEST_REASON])

    def remains(self, order: StackOrder) -> Sequence[str]:
        """List the stack while Heat has it."""
        present = self._call(order.labels, lambda client: _get(client, stack_name(order)), ())
        return [] if present is None else [f"stack {present.stack_name} ({present.id}) {present.stack_status}"]

    # create, update, suspend, resume ----------------------------------------------------------------------------------

    def _ensure_present(self, client: Client, order: StackOrder, request: Request, kept: dict[str, Any]) -> Progress:
        present = _get(client, kept.get("path") or stack_name(order))
        if present is None:
            if self._clock() - kept.get("sent", -math.inf) < _UNTIL_SEEN:
                # A second request could create a second stack of the same name, since Heat checks and creates in two steps.
                return Progress(kept, "CREATE_IN_PROGRESS", "", None, None, again=1.0)
            return self._create(client, order, request)
        kept["path"] = _path(present)
        kept.pop("sent", None)
        action, _, status = present.stack_status.partition("_")
        is_ordered = labels_of(present.tags)[1] == request.revision
        # A failed order is retried only when it is ordered again.
        is_tried = kept.get("version") == order.version
        if status == "IN_PROGRESS":
            if is_ordered or action in ("SUSPEND", "RESUME"):
                kept["version"] = order.version
            kept.pop("told", None)
            if self._is_stalled(client, present, kept):
                self._resend(client, order, request, present)
            return self._in_progress(present, kept)
        if action == "DELETE":
            client.stacks.delete(_path(present))
            return Progress(kept, "DELETE_IN_PROGRESS", "", None, None, again=_SOON)
        if present.stack_status == "CREATE_FAILED" and not present.disable_rollback:
            # Heat is about to roll back, but never will if its engine was killed here.
            since = kept.setdefault("failed", self._clock())
            if self._clock() - since < _UNTIL_ROLLBACK:
                return replace(self._in_progress(present, kept, "ROLLBACK_IN_PROGRESS"), again=1.0)
        failed = status == "FAILED" or action == "ROLLBACK"
        if order.presence == "suspended":
            if action == "SUSPEND" and (not failed or is_tried):
                return self._settled(client, present, kept, order)
            if failed and (action not in ("SUSPEND", "RESUME") or is_tried):
                return self._settled(client, present, kept, order)
            return self._request("SUSPEND", client.actions.suspend, present, kept=kept, order=order)
        if action == "SUSPEND" or (action == "RESUME" and failed and not is_tried):
            return self._request("RESUME", client.actions.resume, present, kept=kept, order=order)
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
            # A concurrent or repeated call has created it.
            return Progress({}, "CREATE_IN_PROGRESS", "", None, None, again=_SOON)
        except keystoneauth1.exceptions.ConnectTimeout:
            # Also raised for a read timeout: Heat may have the request and carry it out later.
            return Progress({"sent": self._clock()}, "CREATE_IN_PROGRESS", "", None, None, again=1.0)
        self._checkpoint("after create")
        kept = {"path": f"{stack_name(order)}/{made['stack']['id']}", "version": order.version}
        return Progress(
            {**kept, "moving": True}, "CREATE_IN_PROGRESS", "", None, None, self._poll_interval, made["stack"]["id"]
        )

    def _update(
        self, client: Client, order: StackOrder, request: Request, *, present: Any, kept: dict[str, Any]
    ) -> Progress:
        def update(path: str) -> None:
            # A failed update is kept for inspection: the previous state cannot always be restored.
            client.stacks.update(path, disable_rollback=True, **request.body)

        return self._request("UPDATE", update, present, kept=kept, order=order)

    def _request(
        self, action: str, send: Callable[[str], None], present: Any, *, kept: dict[str, Any], order: StackOrder
    ) -> Progress:
        """Request an action once per order; Heat may show it with a delay."""
        requested = [action, order.version]
        if kept.get("told") == requested and self._clock() - kept["at"] < _UNTIL_SEEN:
            return replace(self._in_progress(present, kept, f"{action}_IN_PROGRESS"), again=_SOON)
        self._checkpoint(f"before {action.lower()}")
        try:
            send(_path(present))
        except ConflictError:
            # Another operation is in progress; retry after it.
            return replace(self._in_progress(present, kept, f"{action}_IN_PROGRESS"), again=_SOON)
        self._checkpoint(f"after {action.lower()}")
        kept |= {"version": order.version, "told": requested, "at": self._clock()}
        kept.pop("still", None)
        return self._in_progress(present, kept, f"{action}_IN_PROGRESS")

    def _settled(self, client: Client, present: Any, kept: dict[str, Any], order: StackOrder) -> Progress:
        found = resources.resources_of(client, _path(present))
        outputs: dict[str, Any] = {}
        reason, state = "", present.stack_status
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

    # delete -----------------------------------------------------------------------------------------------------------

    def _ensure_absent(self, client: Client, order: StackOrder, kept: dict[str, Any]) -> Progress:
        present = _get(client, stack_name(order))
        if present is None:
            if self._clock() - kept.get("sent", -math.inf) < _UNTIL_CREATED:
                return Progress(kept, "DELETE_IN_PROGRESS", "", None, None, again=1.0)
            return Progress({}, "DELETE_COMPLETE", "", {}, ())
        kept.pop("sent", None)
        kept["path"] = _path(present)
        if present.stack_status == "DELETE_IN_PROGRESS":
            if self._is_stalled(client, present, kept):
                client.stacks.delete(_path(present))
            return self._in_progress(present, kept)
        kept.pop("still", None)
        if present.stack_status == "DELETE_FAILED":
            tries, since = kept.get("deletes", (0, 0.0))
            pause = _DELETE_BACKOFF.delay(tries + 1)
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
        return self._in_progress(present, kept, "DELETE_IN_PROGRESS")

    # in progress ------------------------------------------------------------------------------------------------------

    def _in_progress(self, stack: Any, kept: dict[str, Any], state: str = "") -> Progress:
        kept["moving"] = True
        return Progress(kept, state or stack.stack_status, "", None, None, self._poll_interval, stack.id)

    def _is_stalled(self, client: Client, present: Any, kept: dict[str, Any]) -> bool:
        """Whether a stack has been without progress for so long that the request is due again; True once per repetition."""
        now = self._clock()
        seen = resources.progress_digest(client, _path(present))
        known = kept.get("still")
        if known is None or known["seen"] != seen:
            kept["still"] = {"seen": seen, "since": now, "told": 0}
            return False
        if now - known["since"] < self._stalled.delay(known["told"] + 1):
            return False
        kept["still"] = {**known, "told": known["told"] + 1}
        return True

    def _resend(self, client: Client, order: StackOrder, request: Request, present: Any) -> None:
        path = _path(present)
        with contextlib.suppress(ConflictError):
            # A conflict: the engine is alive and in the middle of an operation.
            if present.stack_status.startswith("SUSPEND"):
                client.actions.suspend(path)
            elif present.stack_status.startswith("RESUME"):
                client.actions.resume(path)
            else:
                client.stacks.update(path, disable_rollback=True, **request.body)

    # ------------------------------------------------------------------------------------------------------------------

    def _call(self, labels: Labels, do: Callable[[Client], Answer], secrets: Sequence[str]) -> Answer:
        """Call Heat and redact secrets from its errors, which may quote values."""
        try:
            return self._connections.call(labels, do)
        except DeployError as problem:
            raise DeployError(redact(str(problem), secrets)) from problem


def _get(client: Client, name: str) -> Any:
    """Return a stack without its outputs; None if it does not exist."""
    try:
        found = client.stacks.get(name, resolve_outputs=False)
    except NotFoundError:
        return None
    return None if found.stack_status == "DELETE_COMPLETE" else found


def _path(stack: Any) -> str:
    return f"{stack.stack_name}/{stack.id}"


def _updated(stack: Any) -> str:
    return str(stack.updated_time or stack.creation_time or "")


def _reason(client: Client, stack: Any, found: Sequence[resources.FoundResource]) -> str:
    """Return why a stack failed, with the names of the failed resources."""
    reason = resources.failures(found)
    if stack.stack_status.startswith("ROLLBACK"):
        # The failed resources are gone; only the stack's events still name them.
        failed = _from_events(client, stack)
        reason = "; ".join(each for each in (failed and f"create failed: {failed}", reason) if each)
    return " ".join((reason or str(stack.stack_status_reason or "")).split())


def _from_events(client: Client, stack: Any) -> str:
    # Newest first, without deleted nested stacks, whose events Heat does not list.
    failed: dict[str, str] = {}
    for each in reversed(client.events.list(_path(stack))):
        own = getattr(each, "resource_name", "") not in ("", stack.stack_name)
        reason = str(each.resource_status_reason or "")
        if own and each.resource_status == "CREATE_FAILED" and "aborted" not in reason:
            failed.setdefault(each.resource_name, reason)
    return "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:3])


def _flattened(resources: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the resources of a preview from its nested lists."""
    for each in resources:
        if isinstance(each, dict):
            yield each
        else:
            yield from _flattened(each)


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return the text with secrets hidden."""
    for secret in secrets:
        if secret:
            # Whole words only: a secret such as `a` would make the text unreadable.
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text
