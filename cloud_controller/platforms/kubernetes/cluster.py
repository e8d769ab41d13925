"""A region's cluster: its API, the kinds that it serves, and the namespaces of its objects.

One namespace holds everything, or each tenant has its own. Namespaces are created on first use and never removed: a removal
deletes everything inside, and another instance of the tenant may have moved in since the check.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from ...core.labels import Labels
from .annotations import MANAGED, TENANT, annotations_of, dns_name, label, selector
from .api import Api, ApiError, Json, ObjectNotFoundError
from .discovery import ApiResource, Discovery

_AT_ONCE: Final = 8


@dataclass(frozen=True)
class Namespaces:
    """The namespaces of a region.

    Args:
        name: the one namespace, or the prefix of the tenants' namespaces.
        each: `one` for all, or one per `tenant`.
    """

    name: str = "archelon"
    each: Literal["one", "tenant"] = "one"

    def of(self, tenant: str) -> str:
        """Return the namespace of a tenant's objects."""
        return self.name if self.each == "one" else dns_name(self.name, tenant)

    @property
    def scope(self) -> str:
        """The namespace to list in; empty: all."""
        return self.name if self.each == "one" else ""


class Cluster:
    """A region's view of a cluster. Thread-safe.

    Args:
        region: its name, a label of its objects: several regions may share a cluster.
    """

    def __init__(self, api: Api, region: str, namespaces: Namespaces | None = None) -> None:
        self.api = api
        self.region = region
        self.namespaces = namespaces or Namespaces()
        self.discovery = Discovery(api)
        self._lock = threading.Lock()
        self._made: set[str] = set()

    # one kind ---------------------------------------------------------------------------------------------------------

    def resource(self, version: str, kind: str) -> ApiResource:
        """Return a kind that the cluster serves. Raises UnknownKindError, ApiError."""
        return self.discovery.find(version, kind)

    def of_kind(self, version: str, kind: str, *, namespace: str = "", **wanted: str) -> Sequence[Json]:
        """List Archelon's objects of a kind, by labels. Raises ApiError."""
        return self.items(self.resource(version, kind), namespace=namespace, **wanted)

    def items(self, resource: ApiResource, *, namespace: str = "", **wanted: str) -> Sequence[Json]:
        """List Archelon's objects of a resource by labels, each with `apiVersion` and `kind`. Raises ApiError."""
        path = resource.path(namespace or self.namespaces.scope)
        with self._forget_missing(resource):
            found = self.api.get(path, labelSelector=selector(self.region, **wanted)).get("items") or ()
        return [{**each, "apiVersion": resource.version, "kind": resource.kind} for each in found]

    def events(self, found: Mapping[str, Any]) -> Sequence[Json]:
        """List the events of an object. Raises ApiError."""
        metadata = found["metadata"]
        path = self.resource("v1", "Event").path(metadata["namespace"])
        events: Sequence[Json] = (
            self.api.get(path, fieldSelector=f"involvedObject.uid={metadata['uid']}").get("items") or ()
        )
        return events

    def apply(self, wanted: Json, *, dry_run: bool = False) -> Json:
        """Apply an object in the version that the cluster serves. Raises ApiError, UnknownKindError."""
        resource = self.resource(wanted["apiVersion"], wanted["kind"])
        metadata = wanted["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        with self._forget_missing(resource):
            return self.api.apply(path, {**wanted, "apiVersion": resource.version}, dry_run=dry_run)

    def path(self, found: Json) -> str:
        """Return the path of an object."""
        metadata = found["metadata"]
        resource = self.resource(found["apiVersion"], found["kind"])
        return resource.path(metadata.get("namespace", ""), metadata["name"])

    def delete(self, found: Json) -> None:
        """Delete this very object, not a later one of the same name. Raises ApiError."""
        try:
            self.api.delete(self.path(found), uid=found["metadata"].get("uid", ""))
        except ApiError as problem:
            if problem.status != 409:
                raise

    @contextmanager
    def _forget_missing(self, resource: ApiResource) -> Iterator[None]:
        """On a 404, drop the kind from the discovery cache: its definition may have been removed."""
        try:
            yield
        except ObjectNotFoundError:
            self.discovery.forget(resource.version)
            raise

    # namespaces -------------------------------------------------------------------------------------------------------

    def namespace(self, labels: Labels) -> str:
        """Return the namespace of a tenant's objects, and create it if it is missing. Raises ApiError."""
        name = self.namespaces.of(labels.tenant)
        with self._lock:
            if name in self._made:
                return name
        path = f"/api/v1/namespaces/{name}"
        if self.api.find(path) is None:
            wanted: Json = {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {MANAGED: "archelon"}},
            }
            if self.namespaces.each == "tenant":
                wanted["metadata"]["labels"][TENANT] = label(labels.tenant)
                wanted["metadata"]["annotations"] = {k: v for k, v in annotations_of(labels).items() if k == TENANT}
            self.api.apply(path, wanted)
        with self._lock:
            self._made.add(name)
        return name

    def forget_namespaces(self) -> None:
        """Check again which namespaces exist: one was removed."""
        with self._lock:
            self._made.clear()

    # everything -------------------------------------------------------------------------------------------------------

    def everything(self, **wanted: str) -> Iterator[Json]:
        """Yield Archelon's objects of every namespaced kind that the cluster serves, by labels. Raises ApiError."""

        def listed(resource: ApiResource) -> Sequence[Json]:
            try:
                return self.items(resource, **wanted)
            except ObjectNotFoundError:
                # The kind's definition was removed in between, and with it all of its objects.
                return ()
            except ApiError as problem:
                # This account has created nothing of a kind that it may not list.
                if problem.status in (403, 405):
                    return ()
                raise

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for found in pool.map(listed, self.discovery.deletable()):
                yield from found


def describe(found: Json) -> str:
    """Describe one object by a stable name."""
    metadata: Mapping[str, str] = found["metadata"]
    return f"{found['kind']} {metadata.get('namespace', '')}/{metadata['name']}"


def describe_held(found: Json) -> str:
    """Describe one object, with the finalizers that delay its removal."""
    held = found["metadata"].get("finalizers") or ()
    return describe(found) + (f", held by {', '.join(held)}" if held else "")
