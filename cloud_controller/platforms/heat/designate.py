"""DNS names in a Heat region: Designate records (API v2) in the project of the region's stacks.

The tenant or the provider creates a zone once and delegates the domain to it. Each record's description names its instance;
records with another description are never changed. Designate reports progress: a record is active once the name servers have
it.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import requests

from archelon_api.dns_records import DnsRecordError, zone_of

from ...core.labels import Labels
from ..interface import DeployError, InventoryError, Named, NameOrder, NeverDelegatedError, ProvisionError, StackIndex
from .connection import HeatConnections
from .inventory import Held, TenantInventory

_INSTANCE: Final = "archelon-instance="
_INSTALLATION: Final = "archelon-installation="
#: Permanent refusals: invalid data, a missing permission, a conflict, a quota.
_REFUSALS: Final = frozenset({400, 403, 409, 413, 422})
_PAGE: Final = 500
#: Seconds within which name servers have a record that Designate reports as active.
_UNTIL_SERVED: Final = 30.0
_Document = Mapping[str, Any]


class DesignateError(Exception):
    """Designate is failing or sent an unexpected response; retry."""


class Designate:
    """Client of the Designate API.

    Args:
        service: its type in the catalogue.
    """

    def __init__(self, connections: HeatConnections, *, service: str = "dns") -> None:
        self._connections = connections
        self._service = service

    def zone(self, labels: Labels, name: str) -> _Document | None:
        """Return the zone of this name, if the project may use one."""
        found = self._query(labels, "/zones", name=f"{name}.")
        return next(iter(found["zones"]), None)

    def records(self, labels: Labels, zone: str, name: str, kind: str) -> list[_Document]:
        """Return the record sets of a name and type, at most one."""
        found = self._query(labels, f"/zones/{zone}/recordsets", name=name, type=kind)
        return [each for each in found["recordsets"] if (each["name"], each["type"]) == (name, kind)]

    def described(self, labels: Labels, description: str) -> Iterator[_Document]:
        """Yield the project's record sets with this description; `*` is a wildcard."""
        query = {"description": description, "limit": str(_PAGE)}
        while True:
            page = self._query(labels, "/recordsets", **query)["recordsets"]
            yield from page
            if len(page) < _PAGE:
                return
            query["marker"] = page[-1]["id"]

    def write(self, labels: Labels, method: str, path: str, document: _Document | None = None) -> requests.Response:
        """Send a change and return the response, also for 404 and 409. Raises ProvisionError for other refusals."""
        response = self._send(labels, method, path, document=document)
        if response.status_code in _REFUSALS - {409}:
            raise _refused(response)
        if response.status_code >= 400 and response.status_code not in (404, 409):
            raise DesignateError(f"{method} {path}: {response.status_code}")
        return response

    def _query(self, labels: Labels, path: str, **query: str) -> dict[str, Any]:
        response = self._send(labels, "GET", path, query=query)
        if response.status_code in _REFUSALS:
            raise _refused(response)
        if response.status_code != requests.codes.ok:
            raise DesignateError(f"GET {path}: {response.status_code}")
        found: dict[str, Any] = response.json()
        return found

    def _send(self, labels: Labels, method: str, path: str, **more: Any) -> requests.Response:
        try:
            return self._connections.send(labels, self._service, method, f"/v2{path}", **more)
        except DeployError as problem:
            raise ProvisionError(str(problem)) from problem


class DesignateNames:
    """Names of one region.

    Args:
        zones: the permitted zones; None permits every zone of the project.
        clock: seconds since the epoch.

    Raises:
        DeployError: a zone is not a domain name.
    """

    def __init__(
        self, designate: Designate, *, zones: Sequence[str] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._designate = designate
        self._clock = clock
        try:
            self._zones = None if zones is None else frozenset(zone_of(each) for each in zones)
        except DnsRecordError as error:
            raise DeployError(str(error)) from error

    def validate(self, order: NameOrder) -> None:
        """Check that names may be set in the zone. Raises ProvisionError."""
        if self._zones is not None and order.record.zone not in self._zones:
            zones = ", ".join(sorted(self._zones)) or "none"
            raise ProvisionError(f"names cannot be set in the zone {order.record.zone}; expected one of {zones}")

    def put(self, order: NameOrder) -> Named:
        """Set the record."""
        self.validate(order)
        labels, record = order.labels, order.record
        zone = self._designate.zone(labels, record.zone)
        if zone is None:
            raise ProvisionError(f"this project has no zone {record.zone}; create it in the cloud's DNS service")
        wanted = {"ttl": record.ttl, "records": [record.value]}
        found = self._designate.records(labels, zone["id"], record.full_name, record.type)
        if not found:
            made = {"name": record.full_name, "type": record.type, "description": _description(labels), **wanted}
            response = self._designate.write(labels, "POST", f"/zones/{zone['id']}/recordsets", made)
            if response.status_code == requests.codes.conflict and not self._designate.records(
                labels, zone["id"], record.full_name, record.type
            ):
                # Without such a record it is a real conflict; a record of a concurrent call is handled by the next call.
                raise _refused(response)
            return Named("waiting", "sent to the name server")
        [present] = found
        if _owner_of(present)[0] != labels.instance:
            raise ProvisionError(
                f"the name {record.full_name} ({record.type}) belongs to another instance or owner; choose another"
            )
        if _is_leaving(present):
            return Named("waiting", "the previous record of the name is being removed")
        if (present["ttl"], list(present["records"])) != (record.ttl, [record.value]):
            self._designate.write(labels, "PUT", f"/zones/{zone['id']}/recordsets/{present['id']}", wanted)
            return Named("waiting", "sent to the name server")
        if present["status"] == "ACTIVE" and (zone["status"] != "PENDING" or self._is_old(present)):
            return Named("active")
        if present["status"] == "ERROR":
            # Designate retries by itself.
            return Named("waiting", "the name servers did not accept the record; the cloud's DNS service retries")
        return Named("waiting", "the name servers are being updated")

    def _is_old(self, record: _Document) -> bool:
        # Designate reports a record as active once the name servers have the zone, possibly a version without the record; the
        # zone is then pending. A zone with constant writes is always pending, so an age limit applies.
        return self._clock() - _changed(record) > _UNTIL_SERVED

    def remove(self, order: NameOrder) -> bool:
        """Delete the record. Name servers may serve it for a few seconds, and resolvers cache it for its TTL."""
        labels, record = order.labels, order.record
        zone = self._designate.zone(labels, record.zone)
        if zone is None:
            return True
        found = self._designate.records(labels, zone["id"], record.full_name, record.type)
        mine = [each for each in found if _owner_of(each)[0] == labels.instance]
        return _remove(self._designate, labels, mine)


class DesignateInventory(TenantInventory):
    """Records of one region, by the instance in their description, with or without a database row."""

    def __init__(self, designate: Designate, index: StackIndex, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(index, clock=clock)
        self._designate = designate

    def _held(self, labels: Labels) -> Iterable[Held]:
        try:
            found = list(self._designate.described(labels, f"{_INSTANCE}*"))
        except ProvisionError:
            return
        for each in found:
            yield Held(*_owner_of(each), _changed(each))

    def objects(self, instance: str) -> Sequence[str]:
        """List the instance's records."""
        return [f"record {each['name']} {each['type']}" for each in self._records(instance)]

    def remove(self, instance: str) -> bool:
        """Delete the records; True once they are gone."""
        labels = self._labels(instance)
        if labels is None:
            return True
        try:
            return _remove(self._designate, labels, self._records(instance))
        except ProvisionError as problem:
            raise InventoryError(f"a record cannot be removed: {problem}") from problem

    def remains(self, instance: str) -> Sequence[str]:
        """List the remaining records."""
        return self.objects(instance)

    def _records(self, instance: str) -> list[_Document]:
        labels = self._labels(instance)
        if labels is None:
            return []
        try:
            found = self._designate.described(labels, f"{_INSTANCE}{instance}*")
            return [each for each in found if _owner_of(each)[0] == instance]
        except ProvisionError as problem:
            if isinstance(problem.__cause__, NeverDelegatedError):
                # Without a delegation no name can have been set for its tenant.
                return []
            # A failed query does not prove absence, whatever the database rows are.
            raise InventoryError(f"the name server cannot be queried: {problem}") from problem


def _description(labels: Labels) -> str:
    return f"{_INSTANCE}{labels.instance}" + (f" {_INSTALLATION}{labels.installation}" if labels.installation else "")


def _owner_of(record: _Document) -> tuple[str, str]:
    """Return instance and installation from a record's description, or empty strings."""
    description = str(record.get("description") or "")
    if not description.startswith(_INSTANCE):
        return "", ""
    instance, _, installation = description.removeprefix(_INSTANCE).partition(f" {_INSTALLATION}")
    return instance, installation


def _remove(designate: Designate, labels: Labels, records: Sequence[_Document]) -> bool:
    """Delete records; True if there were none."""
    for each in records:
        if not _is_leaving(each):
            designate.write(labels, "DELETE", f"/zones/{each['zone_id']}/recordsets/{each['id']}")
    return not records


def _is_leaving(record: _Document) -> bool:
    return bool(record.get("action") == "DELETE")


def _changed(record: _Document) -> float:
    """Return the time of the last change, in seconds since the epoch."""
    changed = datetime.datetime.fromisoformat(str(record["updated_at"] or record["created_at"]))
    return changed.replace(tzinfo=datetime.UTC).timestamp()


def _refused(response: requests.Response) -> ProvisionError:
    return ProvisionError(f"the name server refused the request: {_reason(response)}")


def _reason(response: requests.Response) -> str:
    """Return Designate's message on one line."""
    try:
        document = response.json()
    except ValueError:
        return f"status {response.status_code}"
    details = document.get("errors", {}).get("errors") if isinstance(document.get("errors"), dict) else None
    messages = [str(each.get("message", "")) for each in details or () if isinstance(each, dict)]
    return " ".join("; ".join(messages or [str(document.get("message") or document.get("type") or "")]).split())[:300]
