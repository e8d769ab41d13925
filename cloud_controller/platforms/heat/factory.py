"""Opens a Heat region from its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..interface import Configures, DeployError, Inventory, Names, Platform, PlatformContext, Stacks, Targets, Watcher
from .account import AccountTokens
from .configures import HeatConfigures
from .connection import HeatConnections
from .designate import Designate, DesignateInventory, DesignateNames
from .inventory import AllInventory, HeatInventory
from .stacks import HeatStacks
from .targets import HeatTargets
from .watcher import HeatWatcher


@dataclass(eq=False)
class HeatPlatform(Platform):
    """One region of Heat.

    Args:
        delegates: whether calls use tokens of the instance's delegation.
    """

    stacks: Stacks
    inventory: Inventory
    configures: Configures
    targets: Targets
    watcher: Watcher | None
    delegates: bool
    names: Names | None = None

    def __post_init__(self) -> None:
        self.formats = {"hot": self.stacks}


def open_heat(
    context: PlatformContext,
    *,
    auth_url: str,
    region_name: str = "",
    interface: str = "public",
    cacert: str | None = None,
    account: Mapping[str, Any] | None = None,
    stalled: float = 120.0,
    dns: Mapping[str, Any] | None = None,
) -> HeatPlatform:
    """Open the platform.

    Args:
        auth_url: of Keystone, such as `https://keystone.example.org/v3`.
        region_name: the region's name in Keystone's catalogue; without it, the region's own.
        interface: of the endpoints: public, internal or admin.
        cacert: CA bundle; by default the system's.
        account: the provider's own user, whose project holds all stacks, as arguments of `account.AccountTokens`; without it,
            each order runs in its tenant's project and needs a delegation.
        stalled: seconds without progress in a stack after which the request to Heat is repeated.
        dns: `zones`, in which names may be set, and `service`, Designate's type in the catalogue; without it no names are set.
            Without an account, zones is optional and defaults to all zones of the project.

    Raises:
        DeployError: a setting is invalid.
    """
    if not auth_url.startswith(("http://", "https://")):
        raise DeployError(f"auth_url of the region {context.region} is not a URL; write https://host/v3")
    if isinstance(stalled, bool) or not isinstance(stalled, int | float) or not stalled > 0:
        raise DeployError(f"stalled of the region {context.region} is not a positive number of seconds")
    tokens = context.tokens
    if account is not None:
        try:
            tokens = AccountTokens(auth_url, cacert=cacert, **account)
        except TypeError as problem:
            raise DeployError(f"the account of the region {context.region} is invalid: {problem}") from problem
    connections = HeatConnections(
        tokens, auth_url=auth_url, region=region_name or context.region, interface=interface, cacert=cacert
    )
    inventory: Inventory = HeatInventory(connections, context.stacks)
    names = None
    if dns is not None:
        zones, service = _dns_of(dns, context.region, shared=account is not None)
        designate = Designate(connections, service=service)
        names = DesignateNames(designate, zones=zones)
        # Delete names before the servers that they refer to.
        inventory = AllInventory(DesignateInventory(designate, context.stacks), inventory)
    return HeatPlatform(
        HeatStacks(connections, stalled=float(stalled)),
        inventory=inventory,
        configures=HeatConfigures(connections, context.stacks),
        targets=HeatTargets(connections, context.stacks),
        watcher=HeatWatcher(connections, context.stacks),
        delegates=account is None,
        names=names,
    )


def _dns_of(dns: Mapping[str, Any], region: str, *, shared: bool) -> tuple[Sequence[str] | None, str]:
    """Return zones and service type of the setting. Raises DeployError."""
    where = f"dns of the region {region}"
    if not isinstance(dns, Mapping) or dns.keys() - {"zones", "service"}:
        raise DeployError(f"{where} takes only zones and service")
    zones, service = dns.get("zones"), dns.get("service", "dns")
    if zones is not None and not (isinstance(zones, list) and all(isinstance(each, str) for each in zones)):
        raise DeployError(f"zones in {where} must be a list of domains")
    if not isinstance(service, str) or not service:
        raise DeployError(f"service in {where} must be a type of the cloud's catalogue, such as dns")
    if zones is None and shared:
        raise DeployError(f"{where} needs zones: with an account all tenants set names in the provider's own project")
    return zones, service
