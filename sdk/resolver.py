"""Composition: instances of other services that this one needs.

Each is ordered at the service manager that design's catalogue lists for its type, by a PUT at a path derived from this instance,
so that an orchestrator that was killed in between finds its orders again. Suppliers start in layers (`bundles.supplier_layers`):
those of a layer at once, each layer when the previous one is active. Known inputs are set at creation, circular ones afterwards.
A bound instance exists already: it is read, and never disposed of.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import dataclasses
import urllib.parse
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

import bundles
from archelon_api import names
from archelon_api import service_manager as wire
from archelon_core.backoff import Backoff
from occi_service import client

from .catalogue import Design
from .errors import Cancelled, Failure, SupplierFailure
from .instance import Instance
from .ports import Service, Waiter

#: Seconds between two polls of a supplier, so that a change is noticed within about 15 % of the time waited.
_PAUSES: Final = Backoff(0.25, longest=1.0, factor=1.15)
_AT_ONCE: Final = 8
#: Seconds within which a service manager begins a DELETE.
_GRACE: Final = 10.0
_READY: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE")


@dataclasses.dataclass(frozen=True, slots=True)
class Supplier:
    """An instance of another service.

    Attributes:
        type: of its service.
        url: of the instance.
        bound: it existed before, and this instance does not change or dispose of it.
        attributes: as last read; they may contain secrets.
    """

    type: str
    url: str
    bound: bool = False
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def state(self) -> str:
        """`mcn.service.state`, or its equivalent in Hurtle's services."""
        state = self.attributes.get(wire.STATE)
        if state:
            return str(state)
        return "active" if self.attributes.get("occi.mcn.stack.state") in _READY else ""


class Resolver:
    """The suppliers of one instance.

    Args:
        ordered: their URLs, by type: a supplier is disposed of even if its service has left the catalogue.
    """

    def __init__(
        self,
        design: Design,
        instance: Callable[[], Instance],
        *,
        manifest: bundles.Manifest,
        waiter: Waiter,
        ordered: MutableMapping[str, str],
    ) -> None:
        self._ordered = ordered
        self._design = design
        self._instance = instance
        self._manifest = manifest
        self._waiter = waiter

    def resolve(self) -> dict[str, Supplier]:
        """Order missing suppliers, update the others, and wait until all are active. By type.

        Raises:
            SupplierFailure: a supplier is unavailable, or has failed.
        """
        found: dict[str, Supplier] = {}
        # The second pass sets circular inputs, which are unknown while their suppliers are created.
        for layer in bundles.supplier_layers(self._manifest) * 2:
            for supplier in self._at_once(layer, lambda each: self._ready(each, found)):
                found[supplier.type] = supplier
        return found

    def suppliers(self) -> dict[str, Supplier]:
        """Return the existing suppliers, by type, in their present state."""
        found: dict[str, Supplier] = {}
        for each in self._manifest.dependencies:
            place = self._place(each)
            with contextlib.suppress(client.NotFoundError):
                found[each.type] = self._read(place)
        return found

    def lost(self, present: Mapping[str, Supplier]) -> list[str]:
        """Return the URLs of the suppliers that were ordered or bound, and do not exist any more.

        Args:
            present: those that exist.
        """
        places = {
            each.type: self._binding(each) or self._ordered.get(each.type) for each in self._manifest.dependencies
        }
        return [place for type_, place in places.items() if place and type_ not in present]

    def values(self, suppliers: Mapping[str, Supplier]) -> dict[str, Any]:
        """Return the suppliers' attributes as parameters for templates, by name; the first supplier takes precedence."""
        merged: dict[str, Any] = {}
        for each in self._manifest.dependencies:
            supplier = suppliers.get(each.type)
            for name, value in (supplier.attributes if supplier is not None else {}).items():
                if not name.startswith(("occi.", "mcn.service.", names.ATTRIBUTE_PREFIX)):
                    merged.setdefault(name, value)
        return merged

    def dispose(self) -> None:
        """Dispose of the suppliers that were ordered for this instance, the last layer first, and wait until they are gone.

        Raises:
            SupplierFailure: a supplier cannot be disposed of.
        """
        for layer in reversed(bundles.supplier_layers(self._manifest)):
            self._at_once([each for each in layer if not self._binding(each)], self._remove)

    # one supplier -----------------------------------------------------------------------------------------------------

    def _ready(self, needed: bundles.Dependency, others: Mapping[str, Supplier]) -> Supplier:
        place = self._place(needed)
        if place.bound:
            try:
                return self._await_active(self._read(place), place)
            except client.NotFoundError:
                raise SupplierFailure(f"no instance of {needed.type} at {place.url}; bind another") from None
        wanted = self._wanted(needed, others)
        try:
            present = self._read(place)
        except client.NotFoundError:
            present = self._order(needed, place, wanted)
        # An earlier order may be in progress; only an active instance accepts a change.
        present = self._await_active(present, place)
        changed = {name: value for name, value in wanted.items() if present.attributes.get(name) != value}
        changed.pop(names.REGION, None)
        if changed:
            self._waiter.check()
            place.service.update(place.path, changed)
            present = self._await_active(self._read(place), place)
        return present

    def _order(self, needed: bundles.Dependency, place: _Place, wanted: Mapping[str, Any]) -> Supplier:
        self._waiter.check()
        try:
            shown, _ = place.service.put(place.path, needed.type, wanted)
        except client.StatusError as error:
            if error.status >= 500 or error.status == 429:
                raise
            # A wrong value, or a quota; another status may be another one's soon.
            refused = error.status in (400, 403, 413)
            raise SupplierFailure(f"{needed.type} cannot be ordered: {error.message}", permanent=refused) from error
        self._ordered[needed.type] = place.url
        return Supplier(needed.type, place.url, attributes=dict(shown.attributes))

    def _await_active(self, supplier: Supplier, place: _Place) -> Supplier:
        pauses = iter(_PAUSES)
        while supplier.state != "active":
            if supplier.state == "fail":
                message = supplier.attributes.get(wire.STATE_MESSAGE) or "no reason given"
                raise SupplierFailure(f"{supplier.type} has failed: {message}")
            if supplier.state in ("destroy", "inactive"):
                raise SupplierFailure(
                    f"{supplier.type} at {supplier.url} is {supplier.state}; start it, or retry later"
                )
            self._waiter.wait(next(pauses))
            supplier = self._read(place)
        return supplier

    def _read(self, place: _Place) -> Supplier:
        self._waiter.check()
        shown = place.service.get(place.path)
        return Supplier(place.type, place.url, bound=place.bound, attributes=dict(shown.attributes))

    def _remove(self, needed: bundles.Dependency) -> None:
        try:
            place = self._place(needed)
        except SupplierFailure:
            url = self._ordered.get(needed.type)
            if url is None:
                # It could not be ordered.
                return
            place = self._place_of(needed, url)
        try:
            self._delete(place)
        except client.NotFoundError:
            self._ordered.pop(needed.type, None)

    def _delete(self, place: _Place) -> None:
        """Delete it and wait. Raises NotFoundError when it is gone."""
        self._waiter.check()
        place.service.delete(place.path)
        # A failed supplier keeps that state until its service manager begins the DELETE.
        failed_since = self._waiter.now() + _GRACE
        for pause in _PAUSES:
            self._waiter.wait(pause)
            seen = self._read(place)
            if seen.state != "fail":
                failed_since = self._waiter.now()
            elif self._waiter.now() > failed_since:
                message = seen.attributes.get(wire.STATE_MESSAGE) or "no reason given"
                raise SupplierFailure(f"{place.type} cannot be disposed of: {message}")

    # places and attributes --------------------------------------------------------------------------------------------

    def _place(self, needed: bundles.Dependency) -> _Place:
        instance = self._instance()
        region = needed.region or instance.region
        base, service = self._design.supplier(needed.type, region)
        term = needed.type.rpartition("#")[2]
        bound = self._binding(needed)
        if bound:
            path = urllib.parse.urlsplit(bound).path if "://" in bound else f"/{term}/{bound.rpartition('/')[2]}"
            prefix = urllib.parse.urlsplit(base).path.rstrip("/")
            path = path.removeprefix(prefix)
        else:
            path = wire.supplier_path(instance.id, needed.type, needed.region or "")
        return _Place(needed.type, service, path, base.rstrip("/") + path, bool(bound))

    def _place_of(self, needed: bundles.Dependency, url: str) -> _Place:
        location = f"/{needed.type.rpartition('#')[2]}/"
        base, _, rest = url.rpartition(location)
        return _Place(needed.type, self._design.supplier_at(base, needed.type), location + rest, url, False)

    def _binding(self, needed: bundles.Dependency) -> str | None:
        if needed.binding is None:
            return None
        if needed.binding.id is not None:
            return needed.binding.id
        named = self._instance().parameters.get(needed.binding.parameter or "")
        return str(named) if named else None

    def _wanted(self, needed: bundles.Dependency, others: Mapping[str, Supplier]) -> dict[str, Any]:
        instance = self._instance()
        template = bundles.Template.of_value(dict(needed.attributes), file=f"depends_on {needed.type}")
        known = {**dict.fromkeys(self._manifest.attributes), **instance.internal, **instance.parameters}
        try:
            rendered = template.render(bundles.Scope(known))[0]
        except bundles.BundleError as error:
            raise Failure(str(error)) from None
        assert isinstance(rendered, dict)
        wanted: dict[str, Any] = {name: value for name, value in rendered.items() if value is not None}
        region = needed.region or instance.region
        if region:
            wanted[names.REGION] = region
        for each in needed.inputs:
            supplier = others.get(each.supplier)
            value = supplier.attributes.get(each.attribute) if supplier is not None else None
            if value is not None:
                wanted[each.target] = value
        return wanted

    def _at_once(self, layer: Sequence[bundles.Dependency], task: Callable[[bundles.Dependency], Any]) -> list[Any]:
        """Run the task for each of a layer, in threads if there are several; raise the first failure when all have ended."""
        if len(layer) < 2:
            return [task(each) for each in layer]
        with concurrent.futures.ThreadPoolExecutor(min(len(layer), _AT_ONCE), thread_name_prefix="supplier") as pool:
            under_way = [pool.submit(contextvars.copy_context().run, task, each) for each in layer]
        errors = [each.exception() for each in under_way]
        for error in errors:
            if isinstance(error, Cancelled):
                raise error
        return [each.result() for each in under_way]


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """The location of a supplier, ordered or not."""

    type: str
    service: Service
    path: str
    url: str
    bound: bool
