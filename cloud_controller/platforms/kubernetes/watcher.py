"""Follows a cluster: one watch a kind, by which whoever waits for one of our objects is told of it at once.

Each watch begins with a list, of which everything is told, and goes on from the list's version. Where a watch ends, or its
connection is cut, it is resumed at the version of the last event, so that nothing in between is missed; where the server has
forgotten that version (410), everything is listed and told again. Nothing is kept of the objects: who is told looks.

The threads go on as long as `follow` is called; a worker that loses the region's lease stops calling, and they end by themselves.
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
from .discovery import Resource, UnknownKindError

#: Kinds whose objects change by the cluster's hand.
FOLLOWED: Final = (
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "PersistentVolumeClaim"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "Job"),
    # With the labels of its Service: whether a pod can be reached through it comes a moment after the pod says that it is ready.
    ("discovery.k8s.io/v1", "EndpointSlice"),
)
#: Seconds between two calls of `follow`, and after how many without one the threads end.
_EVERY: Final = 5.0
_FORSAKEN: Final = 20.0
#: Seconds after which the server ends a watch, to be resumed.
_WATCH: Final = 60
#: Seconds before a watch that the server refuses is tried again.
_PAUSES: Final = Backoff(0.2, longest=5.0)

_logger = logging.getLogger(__name__)


class KubernetesWatcher:
    """Tells changes of a region's applications and stacks.

    Args:
        kinds: further ones to follow, by version and kind.
        clock: seconds that only grow.
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
        """Keep a watch on every kind. Raises ApiError where the cluster cannot be asked what it has."""
        with self._lock:
            self._changed = changed
            self._until = self._clock() + _FORSAKEN
            for wanted in self._kinds:
                running = self._threads.get(wanted)
                if running is not None and running.is_alive():
                    continue
                try:
                    resource = self._cluster.resource(*wanted)
                except UnknownKindError:
                    # Perhaps it is defined later; until then nothing of it can change.
                    continue
                thread = threading.Thread(target=self._attend, args=(resource,), name=f"watch-{wanted[1]}", daemon=True)
                self._threads[wanted] = thread
                thread.start()
        return _EVERY

    def close(self) -> None:
        """Tell nothing more."""
        self._ended.set()

    # one kind ---------------------------------------------------------------------------------------------------------

    def _is_wanted(self) -> bool:
        return not self._ended.is_set() and self._clock() < self._until

    def _attend(self, resource: Resource) -> None:
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
                        self._tell(each)
                for event in self._cluster.api.watch(
                    path, version=version, seconds=self._watch_seconds, labelSelector=chosen
                ):
                    pauses = iter(_PAUSES)
                    version = str(event["object"]["metadata"]["resourceVersion"])
                    if event["type"] != "BOOKMARK":
                        self._tell(event["object"])
                    if not self._is_wanted():
                        return
            except GoneError:
                version = ""
            except ApiError as problem:
                _logger.info("a watch is resumed", extra={"kind": resource.kind, "reason": str(problem)})
                self._ended.wait(next(pauses))

    def _tell(self, found: Json) -> None:
        change = _change(found)
        if change is None:
            return
        try:
            self._changed(change)
        except Exception:
            # The books cannot be written now. Who waits looks for itself too, only later.
            _logger.warning("a change could not be told", exc_info=True, extra={"subject": change.id})


def _change(found: Json) -> Change | None:
    metadata = found["metadata"]
    labels = metadata.get("labels") or {}
    if labels.get(COMPONENT) == ORCHESTRATOR:
        return Change("application", instance_of(metadata))
    stack = (metadata.get("annotations") or {}).get(STACK) or labels.get(STACK)
    return Change("stack", str(stack)) if stack else None
