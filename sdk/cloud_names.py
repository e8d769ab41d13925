"""DNS names at a region's name server: the cloud controller sets them for the tenant, and removes them with the instance.

An orchestrator orders records and waits until they are served. It has no credential for the name server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from archelon_api import dns, names
from archelon_core.backoff import Backoff
from occi_service import client

from .catalogue import Design
from .dns import Record
from .errors import Failure
from .instance import Instance
from .ports import Service, Waiter
from .settings import ENV_ZONES

#: Seconds between two polls of a record that is being set or removed.
_PAUSES: Final = Backoff(0.25, longest=5.0, factor=1.6)
_KIND: Final = dns.RECORD.scheme + dns.RECORD.term


class CloudNames:
    """`NameServer` of one instance: that of the instance's region, else the first in the catalogue."""

    def __init__(self, design: Design, instance: Callable[[], Instance], *, waiter: Waiter) -> None:
        self._design = design
        self._instance = instance
        self._waiter = waiter
        self._known: Sequence[str] = ()

    def zones(self) -> Sequence[str]:
        if not self._regions():
            return ()
        return sorted({_text(each, dns.ZONE) for each in self._service().list(dns.RECORD.location)})

    def records(self, zone: str) -> Sequence[Record]:
        return [_record(each) for each in self._present(zone)]

    def change(self, zone: str, add: Sequence[Record], remove: Sequence[Record]) -> None:
        """Order the change, and wait until the name server has it.

        Raises:
            Failure: it is impossible; the text is the cloud controller's or the name server's.
        """
        service = self._service()
        kept = {(each.name, each.type) for each in add}
        gone = {(each.name, each.type) for each in remove} - kept
        leaving = [each.location for each in self._present(zone) if _key(each) in gone]
        for path in leaving:
            with contextlib.suppress(client.NotFoundError):
                service.delete(path)
        self._until_gone(service, leaving)
        for each in add:
            self._until_set(service, self._put(service, zone, each), f"{each.name}.{zone}")

    def _put(self, service: Service, zone: str, record: Record) -> str:
        region = self._region()
        path = dns.record_path(self._instance().id, region, zone, record.name, record.type)
        attributes = {
            **self._instance().labels,
            names.REGION: region,
            dns.ZONE: zone,
            dns.NAME: record.name,
            dns.TYPE: record.type,
            dns.VALUE: record.value,
            dns.TTL: record.ttl,
        }
        self._waiter.check()
        try:
            try:
                service.put(path, _KIND, attributes)
            except client.ConflictError:
                if not _is_leaving(service, path):
                    raise
                self._until_gone(service, [path])
                service.put(path, _KIND, attributes)
        except (client.BadRequestError, client.ConflictError) as error:
            raise Failure(f"the name {record.name}.{zone} cannot be set: {error.message}") from error
        return path

    def _until_set(self, service: Service, path: str, name: str) -> None:
        pauses = iter(_PAUSES)
        while (state := _text(found := service.get(path), dns.STATE)) != "active":
            if state == "failed":
                raise Failure(f"the name {name} cannot be set: {_text(found, dns.MESSAGE) or 'no reason given'}")
            self._waiter.wait(next(pauses))

    def _until_gone(self, service: Service, paths: Iterable[str]) -> None:
        for path in paths:
            with contextlib.suppress(client.NotFoundError):
                for pause in _PAUSES:
                    service.get(path)
                    self._waiter.wait(pause)

    def _present(self, zone: str) -> list[client.Entity]:
        return list(self._service().list(dns.RECORD.location, attributes={dns.ZONE: zone}))

    def _service(self) -> Service:
        if not self._regions():
            raise Failure(
                "no name server is configured: set `dns` in the settings of a region of Heat, "
                f"or {ENV_ZONES} to a directory for zone files"
            )
        return self._design.cloud(dns.SCHEME)

    def _region(self) -> str:
        regions = self._regions()
        own = self._instance().region
        return own if own is not None and own in regions else regions[0]

    def _regions(self) -> Sequence[str]:
        if not self._known:
            self._known = self._design.regions(dns.SCHEME)
        return self._known


def _is_leaving(service: Service, path: str) -> bool:
    """Whether a former record is being removed, or is gone."""
    try:
        return _text(service.get(path), dns.STATE) == "leaving"
    except client.NotFoundError:
        return True


def _record(shown: client.Entity) -> Record:
    get: Any = shown.attributes.get
    return Record(
        _text(shown, dns.NAME),
        _text(shown, dns.TYPE),
        _text(shown, dns.VALUE),
        int(get(dns.TTL, 300)),
        _text(shown, names.INSTANCE),
        settled=get(dns.STATE) == "active",
    )


def _key(shown: client.Entity) -> tuple[str, str]:
    return _text(shown, dns.NAME), _text(shown, dns.TYPE)


def _text(shown: client.Entity, name: str) -> str:
    return str(shown.attributes.get(name) or "")
