"""Cache of the kinds that a cluster serves, with their paths.

The code uses current API versions. On an older server, a kind comes from an earlier version of its group, but only from one whose
fields are known to be equivalent (`_SAME`); any other kind that is not served is an error that names the served versions. A
lookup that misses refreshes the cache, since a custom resource may have been defined in the meantime.
"""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .api import Api, Json, ObjectNotFoundError

#: Earlier versions with the same fields, by version and kind, best first.
_SAME: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("policy/v1", "PodDisruptionBudget"): ("policy/v1beta1",),
    ("autoscaling/v2", "HorizontalPodAutoscaler"): ("autoscaling/v2beta2",),
    ("batch/v1", "CronJob"): ("batch/v1beta1",),
    ("discovery.k8s.io/v1", "EndpointSlice"): ("discovery.k8s.io/v1beta1",),
    ("networking.k8s.io/v1", "Ingress"): (),
}
#: Seconds before a missing kind is looked up again.
_MISSED_SECONDS: Final = 5.0


class UnknownKindError(Exception):
    """The cluster does not serve the kind; the text names the versions that it serves."""


@dataclass(frozen=True)
class ApiResource:
    """A kind as the cluster serves it.

    Args:
        version: the `apiVersion`, such as `apps/v1`.
        plural: the name in paths. verbs: the permitted operations.
    """

    version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: frozenset[str]

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of an object; without a name, of the list; without a namespace, across all namespaces."""
        # Quoted: a name is always one segment of the path.
        name = urllib.parse.quote(name, safe="")
        root = f"/apis/{self.version}" if "/" in self.version else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{inside}/{self.plural}" + (f"/{name}" if name else "")


class Discovery:
    """Cached discovery. Thread-safe.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, api: Api, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._lock = threading.Lock()
        self._versions: dict[str, dict[str, ApiResource]] = {}
        self._missed: dict[tuple[str, str], float] = {}

    def find(self, version: str, kind: str) -> ApiResource:
        """Return the kind in this version, or in an equivalent earlier one.

        Raises:
            UnknownKindError: it is not served. ApiError: the server does not respond.
        """
        for candidate in (version, *_SAME.get((version, kind), ())):
            found = self._version(candidate, (candidate, kind)).get(kind)
            if found is not None:
                return found
        raise UnknownKindError(f"this cluster has no {kind} in {version}; {self._elsewhere(version, kind)}")

    def forget(self, version: str) -> None:
        """Drop a group's version from the cache."""
        with self._lock:
            self._versions.pop(version, None)

    def deletable(self) -> Sequence[ApiResource]:
        """Return every namespaced kind that can be listed and deleted, each in one version. Raises ApiError."""
        found: dict[tuple[str, str], ApiResource] = {}
        for version in self._preferred():
            for kind, resource in self._version(version).items():
                if resource.namespaced and {"list", "delete"} <= resource.verbs:
                    found.setdefault((version.partition("/")[0] if "/" in version else "", kind), resource)
        return list(found.values())

    def _version(self, version: str, looked_for: tuple[str, str] | None = None) -> dict[str, ApiResource]:
        """Return the kinds of a group's version, by name; empty if it is not served."""
        with self._lock:
            known = self._versions.get(version)
            missed = self._missed.get(looked_for, -_MISSED_SECONDS) if looked_for is not None else 0.0
        complete = known is not None and (looked_for is None or looked_for[1] in known)
        if complete or (known is not None and self._clock() < missed + _MISSED_SECONDS):
            return known or {}
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        try:
            kinds = _kinds(version, self._api.get(root).get("resources") or ())
        except ObjectNotFoundError:
            kinds = {}
        with self._lock:
            self._versions[version] = kinds
            if looked_for is not None and looked_for[1] not in kinds:
                self._missed[looked_for] = self._clock()
        return kinds

    def _preferred(self) -> list[str]:
        groups = self._api.get("/apis").get("groups") or ()
        # All versions of a group, the preferred one first: a kind may exist only in an older one.
        found = ["v1"]
        for group in groups:
            first = group["preferredVersion"]["groupVersion"]
            found += [first, *(each["groupVersion"] for each in group["versions"] if each["groupVersion"] != first)]
        return found

    def _elsewhere(self, version: str, kind: str) -> str:
        served = [each for each in self._preferred() if kind in self._version(each)]
        return f"it has it in {', '.join(served)}" if served else "install its definition, or leave it out"


def _kinds(version: str, listed: Sequence[Json]) -> dict[str, ApiResource]:
    return {
        each["kind"]: ApiResource(
            version,
            each["kind"],
            each["name"],
            bool(each.get("namespaced")),
            frozenset(each.get("verbs") or ()),
        )
        for each in listed
        if "/" not in each["name"]
    }
