"""`self.design`: what is where (the catalogue), and tokens for services that others run."""

from __future__ import annotations

import dataclasses
import functools
import urllib.parse
from collections.abc import Callable, Sequence

from archelon_api import design
from occi_service import client

from .errors import Failure, SupplierFailure
from .instance import Instance
from .ports import Service, ServiceClients


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A service in the catalogue."""

    type: str
    url: str
    region: str
    interface: str


class Design:
    """The design module, for one instance.

    Args:
        reach: ways out.
        instance: gives the instance as it is now.
    """

    def __init__(self, services: ServiceClients, instance: Callable[[], Instance]) -> None:
        self._services = services
        self._instance = instance
        self._modules: dict[str, Found] = {}

    def services(self, service_type: str) -> Sequence[Found]:
        """All that the catalogue has of a type, and that may be sent a token."""
        entries = self._services.design().list(design.SERVICE.location, attributes={design.SERVICE_TYPE: service_type})
        return [
            Found(
                service_type,
                str(each.attributes[design.ENDPOINT]),
                str(each.attributes.get(design.SERVICE_REGION, "")),
                str(each.attributes.get(design.INTERFACE, "public")),
            )
            for each in entries
            if design.is_believed(each.attributes)
        ]

    def service(self, service_type: str, region: str | None = None) -> Found:
        """Where a service is: in the region if one is given and has it, else anywhere.

        The instance's own service manager comes first, where its token serves; then internal endpoints.

        Raises:
            SupplierFailure: the catalogue does not name it.
        """
        found = self.services(service_type)
        if not found:
            raise SupplierFailure(f"the catalogue names no service {service_type}; publish it, then retry")
        return min(
            found, key=lambda each: (each.region != region, not self._is_own(each.url), each.interface != "internal")
        )

    def module(self, scheme: str) -> Found:
        """Where a module of the cloud controller is."""
        if scheme not in self._modules:
            try:
                self._modules[scheme] = self.service(scheme)
            except SupplierFailure:
                raise Failure(f"the catalogue names no module {scheme}; ask the operator") from None
        return self._modules[scheme]

    def cloud(self, scheme: str) -> Service:
        """A module of the cloud controller, to call."""
        return self._services.cloud(self.module(scheme).url)

    def regions(self, scheme: str) -> Sequence[str]:
        """The regions in which the catalogue names a module, in its order."""
        return list(dict.fromkeys(each.region for each in self.services(scheme)))

    def supplier(self, service_type: str, region: str | None = None) -> tuple[str, Service]:
        """The service manager of a type: its base URL, and the service with a token that it takes.

        The instance's own token serves at the service manager that gave it; for any other, design's `exchange` gives one.

        Raises:
            SupplierFailure: the catalogue does not name it, or no token can be had.
        """
        base = _base(self.service(service_type, region).url, service_type)
        return base, self.supplier_at(base, service_type)

    def supplier_at(self, base: str, service_type: str) -> Service:
        """The service manager at a base URL, with a token that it takes. Raises SupplierFailure where none can be had."""
        if self._is_own(base):
            return self._services.supplier(base, None)
        return self._services.supplier(base, functools.partial(self.exchange, service_type))

    def _is_own(self, url: str) -> bool:
        return _origin(url) == _origin(self._services.own_url)

    def exchange(self, service_type: str) -> str:
        """A short-lived token for the service manager of another service. Raises SupplierFailure."""
        path = design.delegation_path(self._instance().id)
        try:
            shown = self._services.design().act(
                path, design.EXCHANGE.scheme + design.EXCHANGE.term, {design.EXCHANGE_AUDIENCE: service_type}
            )
        except client.NotFoundError:
            raise SupplierFailure(
                f"{service_type} is another service manager's, and this instance has no delegation to order there"
            ) from None
        token = shown.attributes.get(_TOKEN)
        if not isinstance(token, str):
            raise SupplierFailure(f"design gave no token for {service_type}")
        return token


_TOKEN = "org.archelon.delegation.token"  # nosec  # noqa: S105 - a name


def _base(url: str, service_type: str) -> str:
    """Where the service manager is mounted: Hurtle's endpoints end in the kind's location."""
    location = "/" + service_type.rpartition("#")[2]
    plain = url.rstrip("/")
    return plain.removesuffix(location)


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc
