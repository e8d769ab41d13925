"""Keystone's catalogue, kept the same as design's: a service for each type, an endpoint for each region and interface.

What is ours carries our name in its description; everything else there is other people's, and only read. So what somebody
removes is made again, what somebody changes is set right, and what was withdrawn goes, however often the process is killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from archelon_core.auth.keystone_api import KeystoneRefusedError

from ...design.ports import CatalogueEntry, IdentityDownError
from .account import Account

_NAME: Final = "archelon"


class KeystoneCatalogue:
    """`ServiceCatalogue` over Keystone.

    Args:
        account: a user with the role admin.
        owner: marks what is ours, where several cloud controllers share a Keystone.
    """

    def __init__(self, account: Account, *, owner: str) -> None:
        self._account = account
        self._mark = f"Entered by Archelon ({owner})"

    def publish(self, entries: Sequence[CatalogueEntry]) -> int:
        """See `ServiceCatalogue.publish`."""
        services, endpoints = self._list("services"), self._list("endpoints")
        ours = {each["type"]: each for each in services if each.get("description") == self._mark}
        wanted: dict[str, dict[tuple[str, str], str]] = {}
        for each in entries:
            wanted.setdefault(each.type, {})[each.region, each.interface] = each.endpoint
        changes = 0
        for service_type, places in sorted(wanted.items()):
            service = ours.get(service_type)
            if service is None:
                document = {"type": service_type, "name": _NAME, "description": self._mark, "enabled": True}
                service = self._call("POST", "/services", {"service": document})["service"]
                changes += 1
            there = [each for each in endpoints if each["service_id"] == service["id"]]
            changes += self._place(str(service["id"]), places, there)
        for service_type, service in ours.items():
            if service_type not in wanted:
                # Its endpoints go with it.
                self._call("DELETE", f"/services/{service['id']}")
                changes += 1
        return changes

    def _place(self, service: str, wanted: Mapping[tuple[str, str], str], there: Sequence[Mapping[str, Any]]) -> int:
        changes = 0
        present: dict[tuple[str, str], Mapping[str, Any]] = {}
        for each in there:
            place = (str(each.get("region_id") or ""), str(each["interface"]))
            if place not in wanted or place in present:
                self._call("DELETE", f"/endpoints/{each['id']}")
                changes += 1
            else:
                present[place] = each
        for (region, interface), url in sorted(wanted.items()):
            found = present.get((region, interface))
            if found is None:
                # `region`, not `region_id`: Keystone makes the region where it knows none of that name.
                endpoint = {"service_id": service, "interface": interface, "url": url, "region": region}
                self._call("POST", "/endpoints", {"endpoint": endpoint})
                changes += 1
            elif found["url"] != url or not found.get("enabled", True):
                self._call("PATCH", f"/endpoints/{found['id']}", {"endpoint": {"url": url, "enabled": True}})
                changes += 1
        return changes

    def others(self) -> Sequence[CatalogueEntry]:
        """See `ServiceCatalogue.others`."""
        services = {
            each["id"]: each
            for each in self._list("services")
            if each.get("description") != self._mark and each.get("enabled", True)
        }
        found = []
        for each in self._list("endpoints"):
            service = services.get(each["service_id"])
            # A URL with %(tenant_id)s in it is no endpoint before a token has filled it in.
            if service is not None and each.get("enabled", True) and "(" not in each["url"]:
                region = str(each.get("region_id") or "")
                title = str(service.get("name") or "")
                found.append(CatalogueEntry(str(service["type"]), region, str(each["interface"]), each["url"], title))
        return sorted(found)

    def _list(self, what: str) -> list[Any]:
        return list(self._call("GET", f"/{what}")[what])

    def _call(self, method: str, path: str, document: Any = None) -> Any:
        try:
            return self._account.call(method, path, document=document)
        except KeystoneRefusedError as error:
            if method == "DELETE" and error.status == 404:
                return None
            raise IdentityDownError(
                f"{method} {path}: {error}; {self._account.user.name} needs the role admin to keep the catalogue"
            ) from None
