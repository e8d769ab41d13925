"""DNS records, each an entity: an instance's own names, in a region whose platform has a name server.

The name server, which others use as well, decides who owns a name; a record that belongs to another owner fails with that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from occi.core_model import Entity

from archelon_api import dns, dns_records, names
from archelon_core.errors import BadRequestError, shown

from ..core.resource_backend import OwnedBackend, RequestContext
from ..core.resources import Object, Objects
from ..platforms.interface import NameOrder, Names, ProvisionError

TOPIC: Final = "provision.dns"
WAITING: Final = "waiting"
ACTIVE: Final = "active"
FAILED: Final = "failed"
_LEAVING: Final = "leaving"

_ATTRIBUTES: Final = {"zone": dns.ZONE, "name": dns.NAME, "type": dns.TYPE, "value": dns.VALUE, "ttl": dns.TTL}


def name_order(attributes: Mapping[str, Any], present: Object) -> NameOrder:
    """Return the platform's order from an entity's attributes. Raises DnsRecordError."""
    get = attributes.get
    ttl = get(dns.TTL, 300)
    record = dns_records.checked(
        str(get(dns.ZONE, "")),
        str(get(dns.NAME, "")),
        str(get(dns.TYPE, "")),
        str(get(dns.VALUE, "")),
        # JSON does not distinguish integers from floats.
        ttl=int(ttl) if isinstance(ttl, float) and ttl.is_integer() else ttl,
    )
    return NameOrder(present.labels, record)


class DnsBackend(OwnedBackend):
    """Accepts orders for records. `servers` is by region, where the platform has one."""

    topic = TOPIC
    immutable = frozenset((names.REGION, dns.ZONE, dns.NAME, dns.TYPE))

    def __init__(self, objects: Objects, servers: Mapping[str, Names]) -> None:
        super().__init__(objects)
        self._servers = servers

    def path(self, entity: Entity) -> str:
        get = entity.attributes
        return dns.record_path(
            self.instance(entity), str(get[names.REGION]), str(get[dns.ZONE]), str(get[dns.NAME]), str(get[dns.TYPE])
        )

    def region(self, entity: Entity) -> str:
        return str(entity.attributes[names.REGION])

    def ordered(self, entity: Entity, present: Object, request: RequestContext) -> None:
        self._validate(entity.attributes, present)
        entity.attributes[dns.STATE] = WAITING

    def reordered(
        self, old: Entity, new: dict[str, Any], *, present: Object, request: RequestContext
    ) -> dict[str, Any]:
        # Set it again even if nothing changed: the name server may have lost it, and a failure is to be retried.
        self._validate(new, present)
        new[dns.STATE] = WAITING
        new.pop(dns.MESSAGE, None)
        return new

    def leaving(self, entity: Entity) -> None:
        entity.attributes[dns.STATE] = _LEAVING

    def _validate(self, attributes: Mapping[str, Any], present: Object) -> None:
        region = str(attributes[names.REGION])
        server = self._servers.get(region)
        if server is None:
            known = ", ".join(self._servers) or "none"
            raise BadRequestError(f"region {shown(region)} has no name server; expected one of {known}", names.REGION)
        try:
            order = name_order(attributes, present)
        except dns_records.DnsRecordError as error:
            raise BadRequestError(str(error), _ATTRIBUTES[error.part]) from error
        for attribute, normalized in ((dns.ZONE, order.record.zone), (dns.NAME, order.record.name)):
            if attributes[attribute] != normalized:
                # A record with two paths would have two owners.
                raise BadRequestError(f"write {shown(attributes[attribute])} as {shown(normalized)}", attribute)
        try:
            server.validate(order)
        except ProvisionError as problem:
            raise BadRequestError(str(problem), dns.ZONE) from problem
