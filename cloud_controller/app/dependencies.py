"""Dependencies of the web and worker processes of one cloud controller."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from archelon_core import auth, encryption
from archelon_core.database import Database
from archelon_core.queue import WorkQueue
from occi_service.registry.sql import SqlRegistry
from occi_service.server.service import Rates

from ..core.module import OwnMixins
from ..core.resources import Objects
from ..deploy.bundles import Unpacked
from ..deploy.regions import Regions
from ..deploy.stack_index import RegionStackIndex
from ..design.ports import Delegations, ServiceCatalogue
from ..platforms import entry_points, interface
from ..platforms.delegated_tokens import DelegatedTokens
from ..platforms.interface import Names, NoStacks, NoTokens, Platform, PlatformContext, PlatformTokens, StackIndex
from ..platforms.local.delegations import LocalDelegations
from ..settings import CloudControllerSettings
from .identities import identity_of

#: For `occi_service.registry.schema.upgrade`.
MIGRATIONS: Final = Path(__file__).parents[1] / "migrations" / "versions"


@dataclasses.dataclass(frozen=True)
class Dependencies:
    """Everything that the processes of one cloud controller share.

    Args:
        platforms: by region; the first runs the orchestrators.
        keys: verify the tokens of other issuers. signing_key: signs this cloud controller's own tokens.
        realm: verifies users' tokens, from the local realm or Keystone; or None.
        url: scheme and host of the modules.
        identity_service: stores design's delegations; None selects a local realm without a file.
        catalogue: of the identity service, or None. catalogue_interval: seconds between two synchronizations with it.
        delegation_grace: seconds before a delegation of the identity service that no row records is ended.
        metrics_token: gives Prometheus access to `/metrics`.
        trusted_proxies: networks whose X-Forwarded-For is trusted. rates: limits on clients' requests.
    """

    database: Database
    cipher: encryption.Cipher
    platforms: Mapping[str, Platform]
    keys: auth.VerificationKeys
    signing_key: auth.SigningKey
    directory: Path
    url: str
    realm: auth.TokenVerifier | None = None
    clock: Callable[[], float] = time.time
    orphan_grace: float = 900.0
    bundle_grace: float = 7 * 86400.0
    identity_service: Delegations | None = None
    catalogue: ServiceCatalogue | None = None
    catalogue_interval: float = 60.0
    delegation_grace: float = 120.0
    metrics_token: str = ""
    trusted_proxies: Sequence[str] = ()
    rates: Rates | None = None

    @classmethod
    def of(cls, settings: CloudControllerSettings) -> Dependencies:
        """Open everything that the settings configure. Raises OSError or ValueError for a key, DeployError for a platform."""
        directory = settings.state_directory
        keys = encryption.keys_from_file(settings.encryption_keys or directory / "encryption.keys")
        signing = auth.SigningKey.from_pem(settings.signing_key.read_bytes(), issuer=settings.issuer)
        trusted = [
            auth.VerificationKey.from_pem(path.read_bytes(), issuer=issuer)
            for issuer, path in settings.trusted_keys.items()
        ]
        platforms = {name: (region.platform, region.settings) for name, region in settings.regions.items()}
        own = cls.issuer_of(signing, auth.VerificationKeys([signing.public]), time.time)
        realm, delegations, catalogue = identity_of(settings, own)
        design_url = settings.design_url or f"{settings.cloud_controller_url.rstrip('/')}/design/"
        delegated = DelegatedTokens(design_url, own, clock=time.time)
        database = Database(settings.database_url.get_secret_value(), pool_size=10)
        return cls(
            database=database,
            cipher=encryption.Cipher(keys),
            platforms=open_platforms(
                directory, platforms, delegated.of, stacks=lambda region: RegionStackIndex(database, region)
            ),
            keys=auth.VerificationKeys([signing.public, *trusted]),
            signing_key=signing,
            directory=directory,
            url=settings.cloud_controller_url.rstrip("/"),
            realm=realm,
            orphan_grace=settings.orphan_grace,
            bundle_grace=settings.bundle_grace,
            identity_service=delegations,
            catalogue=catalogue,
            catalogue_interval=settings.catalogue_interval,
            metrics_token=settings.metrics_token.get_secret_value(),
            trusted_proxies=[str(network) for network in settings.trusted_proxies],
            rates=Rates.of(settings),
        )

    @property
    def queue(self) -> WorkQueue:
        """The work queue."""
        return WorkQueue(self.database, clock=self.clock)

    @property
    def objects(self) -> Objects:
        """The modules' rows."""
        return Objects(self.queue)

    @property
    def regions(self) -> Regions:
        """The platforms by region."""
        return Regions(self.platforms)

    @property
    def name_servers(self) -> dict[str, Names]:
        """Name servers, by region, where the platform has one."""
        found = {region: platform.names for region, platform in self.platforms.items()}
        return {region: each for region, each in found.items() if each is not None}

    @property
    def unpacked(self) -> Unpacked:
        """Bundles unpacked into directories of this machine."""
        return Unpacked(self.directory / "bundles", self.database)

    def registry(self) -> SqlRegistry:
        """Return a registry over the database, without categories."""
        return SqlRegistry(self.database, self.cipher, mixin_backend=OwnMixins())

    def issuer(self) -> auth.TokenIssuer:
        """Return an issuer of tokens for orchestrators and exchanges; it renews none."""
        return self.issuer_of(self.signing_key, self.keys, self.clock)

    @staticmethod
    def issuer_of(key: auth.SigningKey, keys: auth.VerificationKeys, clock: Callable[[], float]) -> auth.TokenIssuer:
        """Return an issuer that signs with a key and renews nothing."""
        revocations = auth.MemoryRevocations(clock)
        return auth.TokenIssuer(key, keys=keys, instances=_NoInstances(), revocations=revocations, clock=clock)

    @property
    def delegations(self) -> Delegations:
        """The identity service, as design uses it."""
        return self.identity_service or LocalDelegations(None, self.issuer(), clock=self.clock)


class _NoInstances:
    """Instances renew their tokens with their service manager, never here."""

    def exists(self, instance_id: str, tenant_id: auth.TenantId) -> bool:
        return False


def open_platforms(
    directory: Path,
    regions: Mapping[str, tuple[str, Mapping[str, Any]]],
    tokens: Callable[[str], PlatformTokens] | None = None,
    *,
    stacks: Callable[[str], StackIndex] = lambda _region: NoStacks(),
) -> dict[str, Platform]:
    """Open each region's platform, with a directory of its own.

    Raises DeployError if the platform is unknown, lacks a library, or rejects its settings.
    """
    known = entry_points.offered(entry_points.PLATFORMS)
    opened: dict[str, Platform] = {}
    for name, (platform, settings) in regions.items():
        entry = known.get(platform)
        if entry is None:
            raise interface.DeployError(
                f"region {name!r}: no platform {platform!r}; expected one of {', '.join(sorted(known))}"
            )
        factory = entry_points.loaded(entry)
        try:
            region_tokens = tokens(name) if tokens is not None else NoTokens()
            context = PlatformContext(name, directory / "regions" / name, region_tokens, stacks(name))
            opened[name] = factory(context, **settings)
        except TypeError as problem:
            raise interface.DeployError(f"the platform of region {name!r} rejects its settings: {problem}") from problem
    return opened
