"""DNS: names for deployed resources. The provision module sets them, in regions whose platform has a name server."""

from __future__ import annotations

from typing import Final

from occi.core_model import Kind, Resource

from occi_service.attributes import Attribute

from .names import LABELS, REGION, attribute, derived_id, scheme

#: The catalogue has an entry of this type for each region in which names can be set.
SCHEME: Final = scheme("dns")

ZONE: Final = attribute("dns.zone")
NAME: Final = attribute("dns.name")
TYPE: Final = attribute("dns.type")
VALUE: Final = attribute("dns.value")
TTL: Final = attribute("dns.ttl")
STATE: Final = attribute("dns.state")
MESSAGE: Final = attribute("dns.message")

RECORD: Final = Kind(
    SCHEME,
    "record",
    related=[Resource.kind],
    title="Record of a zone",
    attributes={
        **LABELS,
        REGION: Attribute("required", description="region whose name server serves it"),
        ZONE: Attribute("required", description="domain, in lower case, without the dot at its end"),
        NAME: Attribute("required", description="name below the zone, in lower case; @ for the zone itself"),
        TYPE: Attribute("required", pattern="A|AAAA|CNAME|MX|SRV|TXT"),
        VALUE: Attribute("required", description="its data; a name in it is written in full, with the dot at its end"),
        TTL: Attribute("", type="number", default=300, description="seconds that resolvers may cache it"),
        STATE: Attribute("immutable", pattern="waiting|active|failed|leaving"),
        MESSAGE: Attribute("immutable", description="what it waits for, or why it failed"),
    },
    location="/dns/",
)


def record_path(instance: str, region: str, zone: str, name: str, type: str) -> str:  # noqa: A002 - DNS's words
    """Return the path of an instance's record."""
    return f"{RECORD.location}{derived_id(instance, region, zone, name, type)}"
