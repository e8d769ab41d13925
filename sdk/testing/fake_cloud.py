"""A cloud controller, and suppliers' service managers, in memory: what `sdk.testing` and `sdk.testing.conformance` run against.

It keeps what is PUT and does what the wire says of it. What takes time elsewhere takes a look here: a stack that was ordered is
in progress when it is first shown, and complete when it is looked at again; one that was deleted is gone at the next look.
"""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from archelon_api import deploy, design, names, provision, runtime
from archelon_api import service_manager as manager
from occi_service import client
from occi_service.model import type_id

from ..ports import Service

#: Module by the scheme under which the catalogue names it.
MODULES: Final[Mapping[str, str]] = {
    each: f"http://schemas.archelon.org/occi/{each}#" for each in ("deploy", "provision", "runtime", "disposal")
}
_STACK: Final = type_id(deploy.STACK)
_CONFIGURATION: Final = type_id(provision.CONFIGURATION)
_ALARM: Final = type_id(runtime.ALARM)


class MemoryCloud:
    """What exists, and what becomes of what is ordered. Thread-safe.

    Args:
        base: URL below which the modules are.
        region: that deploy is in.

    Attributes:
        entities: by module (or supplier's type), then path.
        offers: services in the catalogue: by type, the attributes that an active instance shows.
        makes: outputs by the name of a stack.
        fails: why a stack (by name) or a supplier (by type) fails.
        says: what configuring a node gives back, by node.
        bounds: least and most instances by node.
        counts: instances by the path of a stack, then node; keys: of the requests that they come of, by path.
        withdrawn: types that the catalogue names no more.
        paused: names of stacks that get no further, until they are taken out.
        formats: of templates that deploy takes; any where it is empty.
        requests: `METHOD module path`, in order; for a look at what was done.
    """

    def __init__(self, base: str = "http://cloud", region: str = "local") -> None:
        self.base = base
        self.region = region
        self.entities: dict[str, dict[str, client.Entity]] = {}
        self.offers: dict[str, Mapping[str, Any]] = {}
        self.makes: dict[str, Mapping[str, Any]] = {}
        self.fails: dict[str, str] = {}
        self.says: dict[str, str] = {}
        self.bounds: dict[str, tuple[int, int]] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.keys: dict[str, set[str]] = {}
        self.withdrawn: set[str] = set()
        self.paused: set[str] = set()
        self.formats: set[str] = set()
        self.requests: list[str] = []
        self._lock = threading.RLock()

    def service(self, module: str) -> Service:
        """One module, or with a service's type its service manager."""
        return _MemoryService(self, module)

    def at(self, url: str) -> Service:
        """The service at a URL of the catalogue."""
        return self.service(self.module_of(url))

    def module_of(self, url: str) -> str:
        """Which module, or type of service, a URL of the catalogue means."""
        return urllib.parse.unquote(url.removeprefix(self.base).strip("/").partition("/")[0])

    def url(self, module: str) -> str:
        """Where a module, or the service manager of a type, is."""
        return f"{self.base}/{urllib.parse.quote(module, safe='')}"

    # requests ---------------------------------------------------------------------------------------------------------

    def get(self, module: str, path: str) -> client.Entity:
        """An entity; what was in progress gets on."""
        with self._lock:
            self.requests.append(f"GET {module} {path}")
            return self._look(module, path)

    def put(
        self, module: str, path: str, kind: str, attributes: Mapping[str, Any], *, mixins: Iterable[str] = ()
    ) -> tuple[client.Entity, bool]:
        """Create or replace an entity."""
        with self._lock:
            self.requests.append(f"PUT {module} {path}")
            shelf = self.entities.setdefault(module, {})
            present = shelf.get(path)
            if present is not None:
                self._check(module, path, present, attributes)
            given = attributes.get(deploy.STACK_FORMAT)
            if kind == _STACK and self.formats and given not in self.formats:
                text = f"the region knows no format {given}"
                raise client.BadRequestError(text, method="", url="memory", status=400, where=deploy.STACK_FORMAT)
            values = dict(attributes)
            if present is None or _given(present.attributes) != values:
                values |= self._begun(module, path, kind, values, present)
            else:
                values = dict(present.attributes)
            shelf[path] = client.Entity(location=path, kind=kind, id=path, mixins=tuple(mixins), attributes=values)
            return shelf[path], present is None

    def update(self, module: str, path: str, attributes: Mapping[str, Any]) -> client.Entity:
        """Change an entity in part."""
        with self._lock:
            self.requests.append(f"POST {module} {path}")
            present = self._present(module, path)
            merged = {**present.attributes, **attributes}
            if module in self.offers:
                merged[manager.STATE] = "update"
            return self._keep(module, path, merged)

    def act(self, module: str, path: str, action: str, attributes: Mapping[str, Any]) -> client.Entity:
        """Invoke an action."""
        with self._lock:
            term = action.rpartition("#")[2]
            self.requests.append(f"POST {module} {path}?action={term}")
            if action == type_id(design.EXCHANGE):
                token = {"org.archelon.delegation.token": "exchanged"}
                return client.Entity(location=path, kind=type_id(design.DELEGATION), attributes=token)
            present = self._present(module, path)
            if action == type_id(deploy.SCALE) and not self._scale(present, attributes):
                return present
            states = {"scale": "UPDATE", "suspend": "SUSPEND", "resume": "RESUME"}
            if term in states:
                self._keep(module, path, {**present.attributes, deploy.STACK_STATE: f"{states[term]}_IN_PROGRESS"})
            if action == type_id(runtime.QUERY):
                return client.Entity(path, present.kind, attributes={"org.archelon.query.values": []})
            return self._present(module, path)

    def delete(self, module: str, path: str) -> None:
        """Delete an entity: a stack and a supplier at the next look, all else at once."""
        with self._lock:
            self.requests.append(f"DELETE {module} {path}")
            present = self._present(module, path)
            if present.kind == _STACK:
                self._keep(module, path, {**present.attributes, deploy.STACK_STATE: "DELETE_IN_PROGRESS"})
            elif module in self.offers:
                self._keep(module, path, {**present.attributes, manager.STATE: "destroy"})
            else:
                del self.entities[module][path]

    def find(self, module: str, collection: str, attributes: Mapping[str, Any]) -> list[client.Entity]:
        """The entities of a collection."""
        with self._lock:
            self.requests.append(f"GET {module} {collection}")
            if module == "design" and collection == design.SERVICE.location:
                found: Iterable[client.Entity] = self._catalogue()
            else:
                shelf = self.entities.get(module, {})
                found = [each for path, each in sorted(shelf.items()) if path.startswith(collection)]
            wanted = attributes.items()
            return [each for each in found if all(each.attributes.get(name) == value for name, value in wanted)]

    # what becomes of it -----------------------------------------------------------------------------------------------

    def _catalogue(self) -> Sequence[client.Entity]:
        entries = {scheme: self.url(name) for name, scheme in MODULES.items()}
        entries |= {each: self.url(each) for each in self.offers if each not in self.withdrawn}
        return [
            client.Entity(
                location=design.service_path(name, self.region),
                kind=type_id(design.SERVICE),
                attributes={
                    design.SERVICE_TYPE: name,
                    design.ENDPOINT: url,
                    design.SERVICE_REGION: self.region,
                    design.INTERFACE: "public",
                    **({design.ORIGIN: design.INSTALLATION} if design.is_ours(name) else {}),
                },
            )
            for name, url in entries.items()
        ]

    def _begun(
        self, module: str, path: str, kind: str, values: Mapping[str, Any], present: client.Entity | None
    ) -> dict[str, Any]:
        if kind == _STACK:
            verb = "CREATE" if present is None else "UPDATE"
            return {deploy.STACK_STATE: f"{verb}_IN_PROGRESS", deploy.STACK_ID: path.rpartition("/")[2]}
        if kind == _CONFIGURATION:
            return {provision.CONFIGURATION_STATE: "running"}
        if kind == _ALARM:
            return {runtime.ALARM_STATE: "ok"}
        if module in self.offers:
            return {manager.STATE: "initialise" if present is None else "update"}
        return {}

    def _look(self, module: str, path: str) -> client.Entity:
        present = self._present(module, path)
        values = dict(present.attributes)
        if present.kind == _STACK:
            state = str(values.get(deploy.STACK_STATE, ""))
            if state == "DELETE_IN_PROGRESS" and values.get(deploy.STACK_NAME) not in self.paused:
                return self._gone(module, path)
            if state.endswith("_IN_PROGRESS") and values.get(deploy.STACK_NAME) not in self.paused:
                self._keep(module, path, {**values, **self._finished(values, state.removesuffix("_IN_PROGRESS"))})
        elif present.kind == _CONFIGURATION:
            result = self.says.get(str(values[provision.CONFIGURATION_NODE]), "")
            done = {provision.CONFIGURATION_STATE: "done", provision.CONFIGURATION_RESULT: result}
            self._keep(module, path, {**values, **done})
        elif module in self.offers:
            if values.get(manager.STATE) == "destroy":
                return self._gone(module, path)
            reason = self.fails.get(module)
            ended = {manager.STATE: "fail", manager.STATE_MESSAGE: reason} if reason else {manager.STATE: "active"}
            self._keep(module, path, {**self.offers[module], **values, **ended})
        return present

    def _finished(self, values: Mapping[str, Any], verb: str) -> dict[str, Any]:
        name = str(values[deploy.STACK_NAME])
        if name in self.fails:
            return {deploy.STACK_STATE: f"{verb}_FAILED", deploy.STACK_REASON: self.fails[name]}
        return {deploy.STACK_STATE: f"{verb}_COMPLETE", deploy.STACK_OUTPUTS: dict(self.makes.get(name, {}))}

    def _scale(self, stack: client.Entity, attributes: Mapping[str, Any]) -> bool:
        key, keys = attributes.get(deploy.SCALE_KEY), self.keys.setdefault(stack.location, set())
        if key in keys:
            return False
        node = str(attributes[deploy.SCALE_NODE])
        least, most = self.bounds.get(node, (1, 1000))
        counts = self.counts.setdefault(stack.location, {})
        present = counts.get(node, least)
        count = attributes.get(deploy.SCALE_COUNT)
        wanted = int(count) if count is not None else present + int(attributes[deploy.SCALE_BY])
        if not least <= wanted <= most:
            raise _error(client.ConflictError, 409, f"{node} has {least} to {most} instances, not {wanted}")
        counts[node] = wanted
        if key is not None:
            keys.add(str(key))
        return True

    def _check(self, module: str, path: str, present: client.Entity, attributes: Mapping[str, Any]) -> None:
        before, now = present.attributes.get(names.GENERATION, 0), attributes.get(names.GENERATION, 0)
        if now < before:
            raise _error(client.ConflictError, 409, f"generation {now} is older than the stored one, {before}")
        was, wanted = present.attributes.get(deploy.STACK_FORMAT), attributes.get(deploy.STACK_FORMAT)
        if was != wanted and was is not None:
            raise _error(client.ConflictError, 409, f"{deploy.STACK_FORMAT} stays as it was created")

    def _present(self, module: str, path: str) -> client.Entity:
        found = self.entities.get(module, {}).get(path)
        if found is None:
            raise _error(client.NotFoundError, 404, f"there is nothing at {path}")
        return found

    def _gone(self, module: str, path: str) -> client.Entity:
        del self.entities[module][path]
        self.counts.pop(path, None)
        self.keys.pop(path, None)
        return self._present(module, path)

    def _keep(self, module: str, path: str, values: Mapping[str, Any]) -> client.Entity:
        present = self._present(module, path)
        kept = client.Entity(location=path, kind=present.kind, id=path, mixins=present.mixins, attributes=dict(values))
        self.entities[module][path] = kept
        return kept


_SET: Final = frozenset(
    (
        deploy.STACK_STATE,
        deploy.STACK_REASON,
        deploy.STACK_ID,
        deploy.STACK_OUTPUTS,
        deploy.STACK_RESOURCES,
        provision.CONFIGURATION_STATE,
        provision.CONFIGURATION_RESULT,
        runtime.ALARM_STATE,
    )
)


def _given(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What was ordered, without what the provider has set."""
    return {name: value for name, value in attributes.items() if name not in _SET}


def _error(of: type[client.StatusError], status: int, message: str) -> client.StatusError:
    return of(message, method="", url="memory", status=status)


class _MemoryService:
    """`ports.Service` over the cloud in memory."""

    def __init__(self, cloud: MemoryCloud, module: str) -> None:
        self._cloud = cloud
        self._module = module

    def get(self, path: str) -> client.Entity:
        return self._cloud.get(self._module, path)

    def put(
        self, path: str, what: str, attributes: Mapping[str, Any] | None = None, *, mixins: Iterable[str] = ()
    ) -> tuple[client.Entity, bool]:
        return self._cloud.put(self._module, path, what, attributes or {}, mixins=mixins)

    def update(self, path: str, attributes: Mapping[str, Any] | None = None) -> client.Entity:
        return self._cloud.update(self._module, path, attributes or {})

    def act(self, path: str, action: str, attributes: Mapping[str, Any] | None = None) -> client.Entity:
        return self._cloud.act(self._module, path, action, attributes or {})

    def delete(self, path: str) -> None:
        self._cloud.delete(self._module, path)

    def list(self, collection: str = "/", *, attributes: Mapping[str, Any] | None = None) -> Iterator[client.Entity]:
        return iter(self._cloud.find(self._module, collection, attributes or {}))


class MemoryReach:
    """`ports.Reach` into the cloud in memory."""

    def __init__(self, cloud: MemoryCloud, own_url: str) -> None:
        self._cloud = cloud
        self._own_url = own_url

    @property
    def own_url(self) -> str:
        return self._own_url

    def design(self) -> Service:
        return self._cloud.service("design")

    def cloud(self, url: str) -> Service:
        return self._cloud.at(url)

    def supplier(self, url: str, exchange: Callable[[], str] | None) -> Service:
        if exchange is not None:
            exchange()
        return self._cloud.at(url)
