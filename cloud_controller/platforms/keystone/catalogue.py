"""Synchronizes Keystone's catalogue with design's: a service for each type, an endpoint for each region and interface.

Our entries carry our name in their description; all others are only read. Each run recreates removed entries, corrects changed
ones and deletes withdrawn ones, so it may be interrupted at any point.
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
        owner: identifies our entries if several cloud controllers share a Keystone.
    """

    def __init__(self, account: Account, *, owner: str) -> None:
        self._account = account
        self._description = f"Entered by Archelon ({owner})"

    def publish(self, entries: Sequence[CatalogueEntry]) -> int:
        """See `ServiceCatalogue.publish`."""
        services, endpoints = self._list("services"), self._list("endpoints")
        ours = {each["type"]: each for each in services if each.get("description") == self._description}
        wanted: dict[str, dict[tuple[str, str], str]] = {}
        for each in entries:
            wanted.setdefault(each.type, {})[each.region, each.interface] = each.endpoint
        changes = 0
        for service_type, urls in sorted(wanted.items()):
            service = ours.get(service_type)
            if service is None:
                document = {"type": service_type, "name": _NAME, "description": self._description, "enabled": True}
                service = self._call("POST", "/services", {"service": document})["service"]
                changes += 1
            present = [each for each in endpoints if each["service_id"] == service["id"]]
            changes += self._sync_endpoints(str(service["id"]), urls, present)
        for service_type, service in ours.items():
            if service_type not in wanted:
                # Keystone deletes its endpoints with it.
                self._call("DELETE", f"/services/{service['id']}")
                changes += 1
        return changes

    def _sync_endpoints(
        self, service: str, wanted: Mapping[tuple[str, str], str], present: Sequence[Mapping[str, Any]]
    ) -> int:
        changes = 0
        kept: dict[tuple[str, str], Mapping[str, Any]] = {}
        for each in present:
            key = (str(each.get("region_id") or ""), str(each["interface"]))
            if key not in wanted or key in kept:
                self._call("DELETE", f"/endpoints/{each['id']}")
                changes += 1
            else:
                kept[key] = each
        for (region, interface), url in sorted(wanted.items()):
            found = kept.get((region, interface))
            if found is None:
                # `region`, not `region_id`: Keystone creates a missing region.
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
            if each.get("description") != self._description and each.get("enabled", True)
        }
        found = []
        for each in self._list("endpoints"):
            service = services.get(each["service_id"])
            # Skip URL templates such as %(tenant_id)s, which Keystone expands per token.
            if service is not None and each.get("enabled", True) and "(" not in each["url"]:
                region = str(each.get("region_id") or "")
                title = str(service.get("name") or "")
                found.append(CatalogueEntry(str(service["type"]), region, str(each["interface"]), each["url"], title))
        return sorted(found)

    def _list(self, collection: str) -> list[Any]:
        return list(self._call("GET", f"/{collection}")[collection])

    def _call(self, method: str, path: str, document: Any = None) -> Any:
        try:
            return self._account.call(method, path, document=document)
        except KeystoneRefusedError as error:
            if method == "DELETE" and error.status == 404:
                return None
            raise IdentityDownError(
                f"{method} {path}: {error}; {self._account.user.name} needs the role admin to maintain the catalogue"
            ) from None
