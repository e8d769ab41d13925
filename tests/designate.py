"""Designate as tenants of the tests' cloud see it: a zone for the time of a test, and the real BIND that serves it."""

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
    """A zone in somebody's project."""

    owner: Cloud
    name: str
    id: str = ""

    def call(self, method: str, path: str, document: Any = None) -> Any:
        """A call to Designate as the owner; the answer's document."""
        session = self.owner.session
        url = f"{session.get_endpoint(service_type='dns', region_name=self.owner.region)}/v2{path}"
        answer = session.request(url, method, json=document, headers={"Accept": "application/json"})
        return answer.json() if answer.content else None

    def full(self, name: str) -> str:
        """The whole name of one below the zone."""
        return f"{self.name}." if name == "@" else f"{name}.{self.name}."

    def kept(self) -> list[dict[str, Any]]:
        """What Designate has of the zone, but for its own records."""
        found = self.call("GET", f"/zones/{self.id}/recordsets")["recordsets"]
        return [each for each in found if each["type"] not in ("SOA", "NS")]

    def serves(self, name: str, kind: str, *expected: tuple[str, int]) -> None:
        """Wait until BIND serves these and no others: data and ttl."""
        what = f"{self.full(name)} {kind} is {expected}"
        until(lambda: ask(_BIND, self.full(name), kind) == list(expected), what, pause=0.2)


@contextlib.contextmanager
def designate_zone(openstack: OpenStack, owner: Cloud | None = None) -> Iterator[DesignateZone]:
    """A zone of its own for a test, which BIND serves. owner: whose; the tests' tenant's without one."""
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
