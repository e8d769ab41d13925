"""`self.design`: the catalogue of services, and tokens for services of other service managers."""

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
class FoundService:
    """A service in the catalogue."""

    type: str
    url: str
    region: str
    interface: str


class Design:
    """The design module, for one instance.

    Args:
        services: clients of other services.
        instance: returns the instance in its present state.
    """

    def __init__(self, services: ServiceClients, instance: Callable[[], Instance]) -> None:
        self._services = services
        self._instance = instance
        self._modules: dict[str, FoundService] = {}

    def services(self, service_type: str) -> Sequence[FoundService]:
        """Return the catalogue's entries of a type that may be sent a token, without those for Hurtle's clients."""
        entries = self._services.design().list(design.SERVICE.location, attributes={design.SERVICE_TYPE: service_type})
        return [
            FoundService(
                service_type,
                str(each.attributes[design.ENDPOINT]),
                str(each.attributes.get(design.SERVICE_REGION, "")),
                str(each.attributes.get(design.INTERFACE, "public")),
            )
            for each in entries
            if design.is_trusted(each.attributes) and each.attributes.get(design.INTERFACE) != design.HURTLE
        ]

    def service(self, service_type: str, region: str | None = None) -> FoundService:
        """Return the location of a service: in the region if one is given and has it, else anywhere.

        The instance's own service manager is preferred, where its token is valid; then internal endpoints.

        Raises:
            SupplierFailure: the catalogue does not list it.
        """
        return self._best(service_type, self.services(service_type), region)

    def _best(self, service_type: str, found: Sequence[FoundService], region: str | None = None) -> FoundService:
        if not found:
            raise SupplierFailure(f"the catalogue names no service {service_type}; publish it, then retry")
        return min(
            found, key=lambda each: (each.region != region, not self._is_own(each.url), each.interface != "internal")
        )

    def module(self, scheme: str) -> FoundService:
        """Return the location of a module of the cloud controller. Raises Failure."""
        if scheme not in self._modules:
            try:
                self._modules[scheme] = self.service(scheme)
            except SupplierFailure:
                raise Failure(f"the catalogue names no module {scheme}; ask the operator") from None
        return self._modules[scheme]

    def cloud(self, scheme: str) -> Service:
        """Return a client of a module of the cloud controller. Raises Failure."""
        return self._services.cloud(self.module(scheme).url)

    def regions(self, scheme: str) -> Sequence[str]:
        """Return the regions in which the catalogue lists a module, in its order."""
        found = self.services(scheme)
        if found:
            # The same entries say where the module is.
            self._modules[scheme] = self._best(scheme, found)
        return list(dict.fromkeys(each.region for each in found))

    def supplier(self, service_type: str, region: str | None = None) -> tuple[str, Service]:
        """Return the service manager of a type: its base URL, and a client with a token that it accepts.

        The instance's own token is valid at its own service manager; for any other, design's `exchange` issues one.

        Raises:
            SupplierFailure: the catalogue does not list it, or there is no token for it.
        """
        base = _base(self.service(service_type, region).url, service_type)
        return base, self.supplier_at(base, service_type)

    def supplier_at(self, base: str, service_type: str) -> Service:
        """Return a client of the service manager at a base URL, with a token that it accepts. Raises SupplierFailure."""
        if self._is_own(base):
            return self._services.supplier(base, None)
        return self._services.supplier(base, functools.partial(self.exchange, service_type))

    def _is_own(self, url: str) -> bool:
        return _origin(url) == _origin(self._services.own_url)

    def exchange(self, service_type: str) -> str:
        """Return a short-lived token for the service manager of another service. Raises SupplierFailure."""
        path = design.delegation_path(self._instance().id)
        try:
            shown = self._services.design().act(
                path, design.EXCHANGE.scheme + design.EXCHANGE.term, {design.EXCHANGE_AUDIENCE: service_type}
            )
        except client.NotFoundError:
            raise SupplierFailure(
                f"{service_type} belongs to another service manager, and this instance has no delegation to order there"
            ) from None
        token = shown.attributes.get(_TOKEN)
        if not isinstance(token, str):
            raise SupplierFailure(f"design returned no token for {service_type}")
        return token


_TOKEN = "org.archelon.delegation.token"  # nosec  # noqa: S105 - a name


def _base(url: str, service_type: str) -> str:
    """The URL where the service manager is mounted: Hurtle's endpoints end in the kind's location."""
    return url.rstrip("/").removesuffix("/" + service_type.rpartition("#")[2])


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc
