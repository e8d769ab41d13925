"""Names in a region of Heat: records of Designate, through its API (v2), in the project that the region's stacks are in.

A zone is its owner's: the tenant, or the provider, makes it once and delegates the domain to it. Records are made in it, each
with its instance's mark as its description, and nothing that carries another mark, or none, is ever touched. Designate itself
says how far it is: a record is active once its name servers have it.
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

_MARK: Final = "archelon-instance="
_INSTALLATION: Final = "archelon-installation="
#: What Designate refuses whoever repeats it: bad data, a missing right, a conflict, a quota.
_REFUSALS: Final = frozenset({400, 403, 409, 413, 422})
_PAGE: Final = 500
#: Seconds in which name servers have a record that Designate calls active.
_UNTIL_SERVED: Final = 30.0
_Document = Mapping[str, Any]


class DesignateError(Exception):
    """Designate is not well, or says what was not expected; try again."""


class Designate:
    """The calls.

    Args:
        service: its type in the catalogue.
    """

    def __init__(self, connections: HeatConnections, *, service: str = "dns") -> None:
        self._connections = connections
        self._service = service

    def zone(self, labels: Labels, name: str) -> _Document | None:
        """The zone of a name, among those that the project may use."""
        found = self._found(labels, "GET", "/zones", query={"name": f"{name}."})
        return next(iter(found["zones"]), None)

    def records(self, labels: Labels, zone: str, name: str, kind: str) -> list[_Document]:
        """The record sets of a name and type; there is one at most."""
        found = self._found(labels, "GET", f"/zones/{zone}/recordsets", query={"name": name, "type": kind})
        return [each for each in found["recordsets"] if (each["name"], each["type"]) == (name, kind)]

    def marked(self, labels: Labels, mark: str) -> Iterator[_Document]:
        """Every record set of the project whose description is a mark; `*` in it stands for anything."""
        query = {"description": mark, "limit": str(_PAGE)}
        while True:
            page = self._found(labels, "GET", "/recordsets", query=query)["recordsets"]
            yield from page
            if len(page) < _PAGE:
                return
            query["marker"] = page[-1]["id"]

    def write(self, labels: Labels, method: str, path: str, document: _Document | None = None) -> requests.Response:
        """A change; 404 and 409 are the caller's to understand. Raises ProvisionError where it is refused otherwise."""
        answer = self._send(labels, method, path, document=document)
        if answer.status_code in _REFUSALS - {409}:
            raise ProvisionError(f"the name server refuses it: {_said(answer)}")
        if answer.status_code >= 400 and answer.status_code not in (404, 409):
            raise DesignateError(f"{method} {path}: {answer.status_code}")
        return answer

    def _found(self, labels: Labels, method: str, path: str, *, query: Mapping[str, str]) -> dict[str, Any]:
        answer = self._send(labels, method, path, query=query)
        if answer.status_code in _REFUSALS:
            raise ProvisionError(f"the name server refuses it: {_said(answer)}")
        if answer.status_code != requests.codes.ok:
            raise DesignateError(f"{method} {path}: {answer.status_code}")
        found: dict[str, Any] = answer.json()
        return found

    def _send(self, labels: Labels, method: str, path: str, **more: Any) -> requests.Response:
        try:
            return self._connections.send(labels, self._service, method, f"/v2{path}", **more)
        except DeployError as problem:
            raise ProvisionError(str(problem)) from problem


class DesignateNames:
    """Names of one region.

    Args:
        zones: in which names may be set; without them in any that the project has.
        clock: seconds since the epoch.

    Raises:
        DeployError: one is no zone.
    """

    def __init__(
        self,
        designate: Designate,
        *,
        zones: Sequence[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._designate = designate
        self._clock = clock
        try:
            self._zones = None if zones is None else frozenset(zone_of(each) for each in zones)
        except DnsRecordError as error:
            raise DeployError(str(error)) from error

    def validate(self, order: NameOrder) -> None:
        """Whether names may be set in the zone. Raises ProvisionError."""
        if self._zones is not None and order.record.zone not in self._zones:
            there = ", ".join(sorted(self._zones)) or "none"
            raise ProvisionError(f"no names are set in the zone {order.record.zone} here; there are {there}")

    def put(self, order: NameOrder) -> Named:
        """Set the record."""
        self.validate(order)
        labels, record = order.labels, order.record
        zone = self._designate.zone(labels, record.zone)
        if zone is None:
            raise ProvisionError(
                f"there is no zone {record.zone} that this project may use; create it at the cloud's DNS service"
            )
        wanted = {"ttl": record.ttl, "records": [record.value]}
        found = self._designate.records(labels, zone["id"], record.full_name, record.type)
        if not found:
            made = {"name": record.full_name, "type": record.type, "description": _mark(labels), **wanted}
            answer = self._designate.write(labels, "POST", f"/zones/{zone['id']}/recordsets", made)
            if answer.status_code == requests.codes.conflict and not self._designate.records(
                labels, zone["id"], record.full_name, record.type
            ):
                # Not one of the same name and type: somebody quicker, which the next look sees.
                raise ProvisionError(f"the name server refuses it: {_said(answer)}")
            return Named("waiting", "the name server is told")
        [present] = found
        if _marked(present)[0] != labels.instance:
            raise ProvisionError(
                f"the name {record.full_name} ({record.type}) belongs to another instance, or to somebody else; choose another"
            )
        if _is_leaving(present):
            return Named("waiting", "a former record of the name is being removed")
        if (present["ttl"], list(present["records"])) != (record.ttl, [record.value]):
            self._designate.write(labels, "PUT", f"/zones/{zone['id']}/recordsets/{present['id']}", wanted)
            return Named("waiting", "the name server is told")
        if present["status"] == "ACTIVE" and (zone["status"] != "PENDING" or self._is_old(present)):
            return Named("active")
        if present["status"] == "ERROR":
            # Designate goes on trying by itself.
            return Named("waiting", "the name servers do not take it; the cloud's DNS service tries again")
        return Named("waiting", "the name servers are told")

    def _is_old(self, record: _Document) -> bool:
        # Designate calls a record active as soon as its name servers have the zone, which may be the one before the record; the
        # zone is pending then. Where others write into the zone all the time it always is.
        return self._clock() - _changed(record) > _UNTIL_SERVED

    def remove(self, order: NameOrder) -> bool:
        """Take it away. Name servers may serve it some seconds more, and whoever has asked them remembers it for its ttl."""
        labels, record = order.labels, order.record
        zone = self._designate.zone(labels, record.zone)
        if zone is None:
            return True
        found = self._designate.records(labels, zone["id"], record.full_name, record.type)
        mine = [each for each in found if _marked(each)[0] == labels.instance]
        return _removed(self._designate, labels, mine)


class DesignateInventory(TenantInventory):
    """Records of one region, by the instances whose mark they carry, whether or not a row tells of them."""

    def __init__(self, designate: Designate, index: StackIndex, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(index, clock=clock)
        self._designate = designate

    def _held(self, labels: Labels) -> Iterable[Held]:
        try:
            found = list(self._designate.marked(labels, f"{_MARK}*"))
        except ProvisionError:
            return
        for each in found:
            yield Held(*_marked(each), _changed(each))

    def objects(self, instance: str) -> Sequence[str]:
        """The instance's records."""
        return [f"record {each['name']} {each['type']}" for each in self._records(instance)]

    def remove(self, instance: str) -> bool:
        """Remove them; True when they are gone."""
        labels = self._labels(instance)
        if labels is None:
            return True
        try:
            return _removed(self._designate, labels, self._records(instance))
        except ProvisionError as problem:
            raise InventoryError(f"a record cannot be removed: {problem}") from problem

    def remains(self, instance: str) -> Sequence[str]:
        """The records that there still are."""
        return self.objects(instance)

    def _records(self, instance: str) -> list[_Document]:
        labels = self._labels(instance)
        if labels is None:
            return []
        try:
            found = self._designate.marked(labels, f"{_MARK}{instance}*")
            return [each for each in found if _marked(each)[0] == instance]
        except ProvisionError as problem:
            if isinstance(problem.__cause__, NeverDelegatedError):
                # Nobody ever could set a name here in its tenant's name.
                return []
            # Whatever the rows say: who cannot be asked has not said that there is nothing.
            raise InventoryError(f"the name server cannot be asked for it: {problem}") from problem


def _mark(labels: Labels) -> str:
    """The description of a record."""
    return f"{_MARK}{labels.instance}" + (f" {_INSTALLATION}{labels.installation}" if labels.installation else "")


def _marked(record: _Document) -> tuple[str, str]:
    """Instance and installation that a record says it is of; empty where it says none."""
    description = str(record.get("description") or "")
    if not description.startswith(_MARK):
        return "", ""
    instance, _, installation = description.removeprefix(_MARK).partition(f" {_INSTALLATION}")
    return instance, installation


def _removed(designate: Designate, labels: Labels, records: Sequence[_Document]) -> bool:
    """Remove records; True when there were none."""
    for each in records:
        if not _is_leaving(each):
            designate.write(labels, "DELETE", f"/zones/{each['zone_id']}/recordsets/{each['id']}")
    return not records


def _is_leaving(record: _Document) -> bool:
    return bool(record.get("action") == "DELETE")


def _changed(record: _Document) -> float:
    """When it was, in seconds since the epoch."""
    told = datetime.datetime.fromisoformat(str(record["updated_at"] or record["created_at"]))
    return told.replace(tzinfo=datetime.UTC).timestamp()


def _said(answer: requests.Response) -> str:
    """What Designate says of a refusal, in one line."""
    try:
        document = answer.json()
    except ValueError:
        return f"status {answer.status_code}"
    details = document.get("errors", {}).get("errors") if isinstance(document.get("errors"), dict) else None
    told = [str(each.get("message", "")) for each in details or () if isinstance(each, dict)]
    return " ".join("; ".join(told or [str(document.get("message") or document.get("type") or "")]).split())[:300]
