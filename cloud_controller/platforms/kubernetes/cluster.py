"""A region's cluster: its API, what it serves, and in which namespace whose objects are.

One namespace holds everything, or each tenant has one of its own. Namespaces are made when they are first needed and stay: who
removes one removes all that is in it, and between a look and a removal another instance of the tenant may have moved in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from ...core.labels import Labels
from .annotations import MANAGED, TENANT, annotations_of, dns_name, label, selector
from .api import Api, ApiError, Json, NotFoundError
from .discovery import Discovery, Resource

_AT_ONCE: Final = 8


@dataclass(frozen=True)
class Namespaces:
    """Where objects go.

    Args:
        name: of the one namespace, or what the tenants' names begin with.
        each: `one` for all, or one for each `tenant`.
    """

    name: str = "archelon"
    each: Literal["one", "tenant"] = "one"

    def of(self, tenant: str) -> str:
        """The namespace of a tenant's objects."""
        return self.name if self.each == "one" else dns_name(self.name, tenant)

    @property
    def scope(self) -> str:
        """The namespace to list in; empty: all of them."""
        return self.name if self.each == "one" else ""


class Cluster:
    """One region's. Thread-safe.

    Args:
        region: its name, which its objects carry: several regions may share a cluster.
    """

    def __init__(self, api: Api, region: str, namespaces: Namespaces | None = None) -> None:
        self.api = api
        self.region = region
        self.namespaces = namespaces or Namespaces()
        self.discovery = Discovery(api)
        self._lock = threading.Lock()
        self._made: set[str] = set()

    # one kind ---------------------------------------------------------------------------------------------------------

    def resource(self, version: str, kind: str) -> Resource:
        """A kind that the cluster serves. Raises UnknownKindError, ApiError."""
        return self.discovery.find(version, kind)

    def of_kind(self, version: str, kind: str, *, namespace: str = "", **wanted: str) -> Sequence[Json]:
        """Objects of ours of a kind, by labels. Raises ApiError."""
        return self.items(self.resource(version, kind), namespace=namespace, **wanted)

    def items(self, resource: Resource, *, namespace: str = "", **wanted: str) -> Sequence[Json]:
        """Objects of ours of a resource, by labels; each with its own `apiVersion` and `kind`. Raises ApiError."""
        path = resource.path(namespace or self.namespaces.scope)
        with self._knowing(resource):
            found = self.api.get(path, labelSelector=selector(self.region, **wanted)).get("items") or ()
        return [{**each, "apiVersion": resource.version, "kind": resource.kind} for each in found]

    def apply(self, wanted: Json, *, dry_run: bool = False) -> Json:
        """Apply an object, in the version that the cluster serves its kind in. Raises ApiError, UnknownKindError."""
        resource = self.resource(wanted["apiVersion"], wanted["kind"])
        metadata = wanted["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        with self._knowing(resource):
            return self.api.apply(path, {**wanted, "apiVersion": resource.version}, dry_run=dry_run)

    def path(self, found: Json) -> str:
        """The path of an object that was found or is wanted."""
        metadata = found["metadata"]
        resource = self.resource(found["apiVersion"], found["kind"])
        return resource.path(metadata.get("namespace", ""), metadata["name"])

    def delete(self, found: Json) -> None:
        """Delete this very object, unless another has taken its name since. Raises ApiError."""
        try:
            self.api.delete(self.path(found), uid=found["metadata"].get("uid", ""))
        except ApiError as problem:
            if problem.status != 409:
                raise

    @contextmanager
    def _knowing(self, resource: Resource) -> Iterator[None]:
        """What is not found may be the kind itself, whose definition was removed: it is looked for anew the next time."""
        try:
            yield
        except NotFoundError:
            self.discovery.forget(resource.version)
            raise

    # namespaces -------------------------------------------------------------------------------------------------------

    def namespace(self, labels: Labels) -> str:
        """The namespace of a tenant's objects, made if it is not there. Raises ApiError."""
        name = self.namespaces.of(labels.tenant)
        with self._lock:
            if name in self._made:
                return name
        path = f"/api/v1/namespaces/{name}"
        found = self.api.find(path)
        if found is None:
            wanted: Json = {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {MANAGED: "archelon"}},
            }
            if self.namespaces.each == "tenant":
                wanted["metadata"]["labels"][TENANT] = label(labels.tenant)
                wanted["metadata"]["annotations"] = {
                    key: value for key, value in annotations_of(labels).items() if key == TENANT
                }
            self.api.apply(path, wanted)
        with self._lock:
            self._made.add(name)
        return name

    def forget_namespaces(self) -> None:
        """Look anew whether namespaces are there: one was removed."""
        with self._lock:
            self._made.clear()

    # everything -------------------------------------------------------------------------------------------------------

    def everything(self, **wanted: str) -> Iterator[Json]:
        """Objects of ours of every namespaced kind that the cluster serves, by labels. Raises ApiError."""

        def look(resource: Resource) -> Sequence[Json]:
            try:
                return self.items(resource, **wanted)
            except NotFoundError:
                # Its definition was removed between the two looks, and all of its objects with it.
                return ()
            except ApiError as problem:
                # Kinds that this account may not list hold nothing that this account has made.
                if problem.status in (403, 405):
                    return ()
                raise

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for found in pool.map(look, self.discovery.deletable()):
                yield from found

    def described(self, objects: Sequence[Json]) -> list[str]:
        """Objects in words."""
        return [describe(each) for each in objects]


def describe(found: Json) -> str:
    """One object in words, by a name that stays the same."""
    metadata: Mapping[str, str] = found["metadata"]
    return f"{found['kind']} {metadata.get('namespace', '')}/{metadata['name']}"
