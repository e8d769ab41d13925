"""Watches a cluster, one watch per kind, to notify waiting callers of changes at once.

Each watch begins with a list, reports every listed object, and continues from the list's version. A watch that ended or was
disconnected resumes at the version of the last event, so no event is missed; if the server has dropped that version (410), the
list is repeated. The watcher stores no objects: the receiver of a notification reads them.

The threads run while `follow` is called; a worker that loses the region's lease stops calling, and they end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from archelon_core.backoff import Backoff

from ..interface import Change, Changed
from .annotations import COMPONENT, ORCHESTRATOR, STACK, instance_of, selector
from .api import ApiError, GoneError, Json
from .cluster import Cluster
from .discovery import ApiResource, UnknownKindError

#: Kinds whose objects the cluster changes by itself.
FOLLOWED: Final = (
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "PersistentVolumeClaim"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "Job"),
    # It carries its Service's labels. A ready pod is reachable through the Service only a moment later.
    ("discovery.k8s.io/v1", "EndpointSlice"),
)
#: Seconds between two calls of `follow`, and after the last call until the threads end.
_EVERY: Final = 5.0
_EXPIRY: Final = 20.0
#: Seconds after which the server ends a watch; it is then resumed.
_WATCH: Final = 60
#: Seconds before a rejected watch is retried.
_PAUSES: Final = Backoff(0.2, longest=5.0)

_logger = logging.getLogger(__name__)


class KubernetesWatcher:
    """Reports changes of a region's applications and stacks.

    Args:
        kinds: further kinds to watch, by version and kind.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        kinds: Sequence[tuple[str, str]] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        watch_seconds: int = _WATCH,
    ) -> None:
        self._cluster = cluster
        self._kinds = tuple(dict.fromkeys((*FOLLOWED, *kinds)))
        self._clock = clock
        self._watch_seconds = watch_seconds
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads: dict[tuple[str, str], threading.Thread] = {}
        self._until = 0.0
        self._changed: Changed = lambda _: None

    def follow(self, changed: Changed) -> float:
        """Watch every kind. Raises ApiError if the cluster does not list its kinds."""
        with self._lock:
            self._changed = changed
            self._until = self._clock() + _EXPIRY
            for wanted in self._kinds:
                running = self._threads.get(wanted)
                if running is not None and running.is_alive():
                    continue
                try:
                    resource = self._cluster.resource(*wanted)
                except UnknownKindError:
                    # It may be defined later; until then it has no objects.
                    continue
                thread = threading.Thread(target=self._watch, args=(resource,), name=f"watch-{wanted[1]}", daemon=True)
                self._threads[wanted] = thread
                thread.start()
        return _EVERY

    def close(self) -> None:
        """Stop reporting."""
        self._ended.set()

    # one kind ---------------------------------------------------------------------------------------------------------

    def _is_wanted(self) -> bool:
        return not self._ended.is_set() and self._clock() < self._until

    def _watch(self, resource: ApiResource) -> None:
        path = resource.path(self._cluster.namespaces.scope)
        chosen = selector(self._cluster.region)
        version = ""
        pauses = iter(_PAUSES)
        while self._is_wanted():
            try:
                if not version:
                    listed = self._cluster.api.get(path, labelSelector=chosen)
                    version = str(listed["metadata"]["resourceVersion"])
                    for each in listed.get("items") or ():
                        self._report(each)
                for event in self._cluster.api.watch(
                    path, version=version, seconds=self._watch_seconds, labelSelector=chosen
                ):
                    pauses = iter(_PAUSES)
                    version = str(event["object"]["metadata"]["resourceVersion"])
                    if event["type"] != "BOOKMARK":
                        self._report(event["object"])
                    if not self._is_wanted():
                        return
            except GoneError:
                version = ""
            except ApiError as problem:
                _logger.info("watch interrupted; resuming", extra={"kind": resource.kind, "reason": str(problem)})
                self._ended.wait(next(pauses))

    def _report(self, found: Json) -> None:
        change = _change(found)
        if change is None:
            return
        try:
            self._changed(change)
        except Exception:
            # The database is unavailable. Waiting callers also poll, only later.
            _logger.warning("change notification failed", exc_info=True, extra={"subject": change.id})


def _change(found: Json) -> Change | None:
    metadata = found["metadata"]
    labels = metadata.get("labels") or {}
    if labels.get(COMPONENT) == ORCHESTRATOR:
        return Change("application", instance_of(metadata))
    stack = (metadata.get("annotations") or {}).get(STACK) or labels.get(STACK)
    return Change("stack", str(stack)) if stack else None
