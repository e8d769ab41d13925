"""What a cluster serves: the path of every kind, today's API versions first, an older one where the server has no newer.

The code here speaks the API versions of today. Where a server is older, the same kind is taken from an earlier version of its
group, but only from those that are known to mean the same by the fields that are used (`_SAME`); any other kind that is not
served is refused with what is. The answer is kept, and asked for again when something is looked for that is not in it: a
custom resource may have been defined since.
"""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .api import Api, Json, NotFoundError

#: Earlier versions by group, version and kind, the best first, that take and show the same fields.
_SAME: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("policy/v1", "PodDisruptionBudget"): ("policy/v1beta1",),
    ("autoscaling/v2", "HorizontalPodAutoscaler"): ("autoscaling/v2beta2",),
    ("batch/v1", "CronJob"): ("batch/v1beta1",),
    ("discovery.k8s.io/v1", "EndpointSlice"): ("discovery.k8s.io/v1beta1",),
    ("networking.k8s.io/v1", "Ingress"): (),
}
#: Seconds before a kind that was not found is asked for again.
_PATIENCE: Final = 5.0


class UnknownKindError(Exception):
    """The cluster has no such kind; the text says which versions of it there are."""


@dataclass(frozen=True)
class Resource:
    """A kind as the cluster serves it.

    Args:
        version: as `apiVersion` has it, such as `apps/v1`.
        plural: as paths have it. verbs: what can be done.
    """

    version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: frozenset[str]

    def path(self, namespace: str, name: str = "") -> str:
        """Of an object, or without a name of the list of them; without a namespace of those in all."""
        # Whatever a name holds, it stays one step of the path.
        name = urllib.parse.quote(name, safe="")
        root = f"/apis/{self.version}" if "/" in self.version else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{inside}/{self.plural}" + (f"/{name}" if name else "")


class Discovery:
    """What the cluster serves; kept, and thread-safe.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, api: Api, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._lock = threading.Lock()
        self._versions: dict[str, dict[str, Resource]] = {}
        self._missed: dict[tuple[str, str], float] = {}

    def find(self, version: str, kind: str) -> Resource:
        """The kind in this version, or in an earlier one that means the same.

        Raises:
            UnknownKindError: it is not served. ApiError: the server cannot be asked.
        """
        for candidate in (version, *_SAME.get((version, kind), ())):
            found = self._version(candidate, (candidate, kind)).get(kind)
            if found is not None:
                return found
        raise UnknownKindError(f"this cluster has no {kind} in {version}; {self._elsewhere(version, kind)}")

    def forget(self, version: str) -> None:
        """Ask anew what there is of a group's version."""
        with self._lock:
            self._versions.pop(version, None)

    def deletable(self) -> Sequence[Resource]:
        """Every namespaced kind that can be listed and deleted, each in one version. Raises ApiError."""
        found: dict[tuple[str, str], Resource] = {}
        for version in self._preferred():
            for kind, resource in self._version(version).items():
                if resource.namespaced and {"list", "delete"} <= resource.verbs:
                    found.setdefault((version.partition("/")[0] if "/" in version else "", kind), resource)
        return list(found.values())

    def _version(self, version: str, looked_for: tuple[str, str] | None = None) -> dict[str, Resource]:
        """The kinds of a group's version, by name; none where it is not served."""
        with self._lock:
            known = self._versions.get(version)
            missed = self._missed.get(looked_for, -_PATIENCE) if looked_for is not None else 0.0
        complete = known is not None and (looked_for is None or looked_for[1] in known)
        if complete or (known is not None and self._clock() < missed + _PATIENCE):
            return known or {}
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        try:
            kinds = _kinds(version, self._api.get(root).get("resources") or ())
        except NotFoundError:
            kinds = {}
        with self._lock:
            self._versions[version] = kinds
            if looked_for is not None and looked_for[1] not in kinds:
                self._missed[looked_for] = self._clock()
        return kinds

    def _preferred(self) -> list[str]:
        groups = self._api.get("/apis").get("groups") or ()
        # All versions of a group, the preferred first: a kind may be in an older one only.
        found = ["v1"]
        for group in groups:
            first = group["preferredVersion"]["groupVersion"]
            found += [first, *(each["groupVersion"] for each in group["versions"] if each["groupVersion"] != first)]
        return found

    def _elsewhere(self, version: str, kind: str) -> str:
        there = [each for each in self._preferred() if kind in self._version(each)]
        return f"it has it in {', '.join(there)}" if there else "install what defines it, or leave it out"


def _kinds(version: str, listed: Sequence[Json]) -> dict[str, Resource]:
    return {
        each["kind"]: Resource(
            version,
            each["kind"],
            each["name"],
            bool(each.get("namespaced")),
            frozenset(each.get("verbs") or ()),
        )
        for each in listed
        if "/" not in each["name"]
    }
