"""Designate as tenants of the test cloud see it: a zone for one test, and the real BIND that serves it."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any

from tests.conftest import missing
from tests.dns_query import ask
from tests.openstack import Cloud, OpenStack
from tests.waiting import until

#: The test bed's BIND.
_BIND = ("127.0.0.1", 15353)


@dataclasses.dataclass
class DesignateZone:
    """A zone in a tenant's project."""

    owner: Cloud
    name: str
    id: str = ""

    def call(self, method: str, path: str, document: Any = None) -> Any:
        """Call Designate as the owner, and return the response's document."""
        session = self.owner.session
        url = f"{session.get_endpoint(service_type='dns', region_name=self.owner.region)}/v2{path}"
        answer = session.request(url, method, json=document, headers={"Accept": "application/json"})
        return answer.json() if answer.content else None

    def full(self, name: str) -> str:
        """Return the full name of a name below the zone."""
        return f"{self.name}." if name == "@" else f"{name}.{self.name}."

    def kept(self) -> list[dict[str, Any]]:
        """Return the zone's record sets, without Designate's own."""
        found = self.call("GET", f"/zones/{self.id}/recordsets")["recordsets"]
        return [each for each in found if each["type"] not in ("SOA", "NS")]

    def serves(self, name: str, kind: str, *expected: tuple[str, int]) -> None:
        """Wait until BIND serves exactly these records (data and TTL)."""
        what = f"{self.full(name)} {kind} is {expected}"
        until(lambda: ask(_BIND, self.full(name), kind) == list(expected), what, pause=0.2)


@contextlib.contextmanager
def designate_zone(openstack: OpenStack, owner: Cloud | None = None) -> Iterator[DesignateZone]:
    """Create a zone for one test, which BIND serves, as `owner` (default the tests' tenant)."""
    if openstack.bed is None:
        missing("a name server behind Designate whose address is known", command="OS_CLOUD= make test-all")
    zone = DesignateZone(owner or openstack.tenant, f"{uuid.uuid4().hex}.example")
    made = zone.call("POST", "/zones", {"name": zone.full("@"), "email": "hostmaster@example.org"})
    zone.id = made["id"]
    try:
        until(lambda: zone.call("GET", f"/zones/{zone.id}")["status"] == "ACTIVE", "the zone is active", pause=0.2)
        yield zone
    finally:
        zone.call("DELETE", f"/zones/{zone.id}")
