"""The service manager's parts, put together: once for a web process, once for a worker."""

from __future__ import annotations

import dataclasses
import functools
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import prometheus_client
import sqlalchemy as sa

from archelon_api import service_manager as wire
from archelon_core import health
from archelon_core import queue as work
from archelon_core.auth import (
    AnyOf,
    HeavyRequests,
    Quotas,
    Realm,
    RealmFile,
    Revocations,
    SignedTokens,
    SigningKey,
    TokenIssuer,
    VerificationKeys,
    read_jwk_set,
)
from archelon_core.auth.keystone import KeystoneTokens, RoleMap
from archelon_core.auth.keystone_api import Keystone
from archelon_core.auth.policy import Policy
from archelon_core.auth.size_limit import MAX_BODY
from archelon_core.auth.sql_revocations import SqlRevocations
from archelon_core.database import Database
from archelon_core.encryption import Cipher
from occi_service.registry.schema import upgrade
from occi_service.registry.sql import SqlRegistry
from occi_service.server.service import Rates, assemble

from .api.application import ServiceManager
from .api.bundles import BundleResource, PublishedBackend
from .api.exchanged_tokens import Audiences, ComposedServices, OwnMixins
from .api.operator import OperatorResource
from .api.orders import INVOCATION_TOPIC, InstanceBackend
from .api.records import RecordBackend, RecordExpiry
from .api.reports import ReportBackend
from .lifecycle.actions import Invocations
from .lifecycle.history import EXPIRY_TOPIC, History
from .lifecycle.metrics import Exporter, PhaseMetrics
from .lifecycle.planner import RetryPolicy
from .lifecycle.reconciler import Reconciler
from .lifecycle.rollout import ROLL_TOPIC, Roll
from .remote import discovery
from .remote.cloud_controller import STEP_TIMEOUT, Cloud
from .remote.delegation import ORPHANS, Delegating, OrphanedDelegations
from .remote.registration import Registration
from .settings import ServiceManagerSettings
from .store import tables
from .store.instances import TOPIC, Instances
from .store.services import ENTRY_TOPIC, Catalogue
from .store.start_tokens import START_ISSUER, StartTokens

#: Alembic's revisions of this room.
MIGRATIONS = Path(__file__).parent / "migrations" / "versions"

_COUNTS = "instance.counts"


class _InstancesThatExist:
    """`archelon_core.auth.Instances`, answered from the table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def exists(self, instance_id: str, tenant_id: str) -> bool:
        """Whether the instance is there."""
        table = tables.instances
        wanted = sa.select(table.c.id).where(table.c.id == instance_id, table.c.tenant == tenant_id)
        with self._database.read() as connection:
            return connection.execute(wanted).one_or_none() is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Dependencies:
    """What web and worker share."""

    settings: ServiceManagerSettings
    database: Database
    queue: work.WorkQueue
    registry: SqlRegistry
    cipher: Cipher
    issuer: TokenIssuer
    keys: VerificationKeys
    revocations: Revocations
    instances: Instances
    history: History
    catalogue: Catalogue
    cloud: Cloud
    backend: InstanceBackend
    policy: Policy
    metrics: prometheus_client.CollectorRegistry
    clock: Callable[[], float]

    @classmethod
    def of(cls, settings: ServiceManagerSettings, *, clock: Callable[[], float] = time.time) -> Dependencies:
        """The parts for these settings; the database's schema is brought up to date.

        Raises:
            ValueError: a key, a policy file or the database's URL is not what it should be.
        """
        pool = max(settings.web_threads, settings.worker_threads) + 4
        database = Database(settings.database_url.get_secret_value(), pool_size=pool)
        upgrade(database, MIGRATIONS)
        cipher = Cipher([key.strip() for key in settings.encryption_keys.get_secret_value().split(",")])
        keys = read_jwk_set(settings.verification_keys)
        signing = SigningKey.from_pem(settings.signing_key.get_secret_value().encode(), issuer=settings.issuer)
        revocations = SqlRevocations(database, clock)
        issuer = TokenIssuer(
            signing, keys=keys, instances=_InstancesThatExist(database), revocations=revocations, clock=clock
        )
        queue = work.WorkQueue(database, clock=clock)
        policy = Policy(Path(settings.policy_file) if settings.policy_file else None)
        registry = SqlRegistry(database, cipher, mixin_backend=OwnMixins(policy))
        instances = Instances(registry, queue)
        history = History(registry, queue, name=settings.name, retention=settings.record_retention)
        cloud = Cloud(settings.design_url, issuer, name=settings.name, threads=settings.worker_threads)
        backend = InstanceBackend(
            instances,
            history=history,
            policy=policy,
            quotas=Quotas(default=settings.quota_instances),
            cipher=cipher,
            delegating=Delegating(database, queue, cloud),
            clock=clock,
        )
        catalogue = Catalogue(database, registry, backend, queue=queue, monotonic=time.monotonic)
        backend.catalogue = catalogue
        _register(
            registry,
            backend,
            instances,
            catalogue,
            policy=policy,
            reports=ReportBackend(
                instances, cipher=cipher, issuer=issuer, issuers=_own_issuers(settings), policy=policy, clock=clock
            ),
            clock=clock,
        )
        return cls(
            settings=settings,
            database=database,
            queue=queue,
            registry=registry,
            cipher=cipher,
            issuer=issuer,
            keys=keys,
            revocations=revocations,
            instances=instances,
            history=history,
            catalogue=catalogue,
            cloud=cloud,
            backend=backend,
            policy=policy,
            metrics=prometheus_client.CollectorRegistry(),
            clock=clock,
        )


def _register(
    registry: SqlRegistry,
    backend: InstanceBackend,
    instances: Instances,
    catalogue: Catalogue,
    *,
    policy: Policy,
    reports: ReportBackend,
    clock: Callable[[], float],
) -> None:
    """The categories that every service manager has; those of services come from the catalogue."""
    for action in (wire.REPORT, wire.RENEW):
        registry.set_backend(action, reports, None)
    for action in wire.LIFECYCLE_ACTIONS:
        registry.set_backend(action, backend, None)
    published = PublishedBackend(catalogue, instances, policy=policy, clock=clock)
    registry.set_backend(wire.PUBLISHED, published, None)
    registry.set_backend(wire.ROLL, published, None)
    read_only = RecordBackend(policy)
    for kind in (wire.RECORD, wire.DEPENDENCY, wire.RESOURCE_LINK):
        registry.set_backend(kind, read_only, None)


def body_limit(settings: ServiceManagerSettings) -> Callable[[str], int]:
    """How many bytes a body may have at a path."""
    return lambda path: settings.bundle_limit if path.startswith("/bundle/") else MAX_BODY


def web(parts: Dependencies) -> Any:
    """The WSGI callable: OCCI 1.2 at `/`, the same instances in Hurtle's dialect at `/hurtle`."""
    settings = parts.settings
    trusted_proxies = [str(network) for network in settings.trusted_proxies]
    application = _application(parts, "1.2")
    bundle = BundleResource(parts.catalogue, parts.policy, limit=settings.bundle_limit)
    application.falcon.add_route("/bundle/{digest}", bundle)
    operator = OperatorResource(
        parts.database,
        parts.instances,
        parts.catalogue,
        history=parts.history,
        policy=parts.policy,
        clock=parts.clock,
    )
    application.falcon.add_route("/operator/instances", operator, suffix="instances")
    application.falcon.add_route("/operator/instances/{instance}", operator, suffix="instance")
    application.falcon.add_route("/operator/services", operator, suffix="services")
    application.falcon.add_route("/operator/rolls", operator, suffix="rolls")
    application.falcon.add_route("/update/children", operator, suffix="children")
    application.falcon.add_route("/operator/draining", operator, suffix="draining")
    rates = Rates.of(settings)
    heavy = HeavyRequests(total=max(1, settings.web_threads // 2))
    assembled = assemble(
        application,
        verifier(parts),
        checks=[health.Check("database", _database_probe(parts.database))],
        registry=parts.metrics,
        rates=rates,
        heavy=heavy,
        body_limit=body_limit(settings),
        access_lines=settings.access_log,
        trusted_proxies=trusted_proxies,
        realm_name=settings.name,
        metrics_token=settings.metrics_token.get_secret_value(),
    )
    hurtle = _application(parts, "pyssf")
    hurtle.falcon.add_route("/update/children", operator, suffix="children")
    hurtle_doors = assemble(
        hurtle,
        verifier(parts),
        registry=prometheus_client.CollectorRegistry(),
        rates=rates,
        heavy=heavy,
        access_lines=settings.access_log,
        trusted_proxies=trusted_proxies,
        realm_name=settings.name,
    )

    def mounted(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        if path == "/hurtle" or path.startswith("/hurtle/"):
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + "/hurtle"
            environ["PATH_INFO"] = path.removeprefix("/hurtle") or "/"
            return hurtle_doors(environ, start_response)
        return assembled(environ, start_response)

    return mounted


def _own_issuers(settings: ServiceManagerSettings) -> frozenset[str]:
    return frozenset((settings.issuer, START_ISSUER))


def _application(parts: Dependencies, dialect: Literal["1.2", "pyssf"]) -> ServiceManager:
    return ServiceManager(
        parts.registry,
        catalogue=parts.catalogue,
        exists=_InstancesThatExist(parts.database).exists,
        issuers=_own_issuers(parts.settings),
        reach=functools.partial(
            ComposedServices, database=parts.database, instances=parts.instances, catalogue=parts.catalogue
        ),
        policy=parts.policy,
        realm_name=parts.settings.name,
        dialect=dialect,
    )


def verifier(parts: Dependencies) -> AnyOf:
    """Who may call: people of the local realm or Keystone, orchestrators and services, orchestrators that start.

    Whom of them to believe is in the settings alone.
    """
    settings = parts.settings
    sources: list[Any] = [
        StartTokens(parts.database, parts.cipher),
        SignedTokens(
            parts.keys,
            audiences=Audiences(parts.catalogue),
            revocations=parts.revocations,
            clock=parts.clock,
        ),
    ]
    if settings.realm_file:
        sources.insert(0, Realm(RealmFile(Path(settings.realm_file), parts.clock), parts.clock))
    if settings.keystone_url:
        keystone = Keystone(settings.keystone_url, ca_file=settings.keystone_ca_file)
        roles = RoleMap(settings.keystone_roles, operator_project=settings.keystone_operator_project)
        # The last, since it is the only one that is far away.
        sources.append(KeystoneTokens(keystone, roles=roles, clock=parts.clock))
    return AnyOf(sources)


def _database_probe(database: Database) -> Callable[[], None]:
    def probe() -> None:
        with database.read() as connection:
            connection.execute(sa.select(1))

    return probe


def topics(parts: Dependencies) -> list[work.Topic[Any, Any]]:
    """What a worker of the service manager does."""
    settings = parts.settings
    cloud = parts.cloud
    reconciler = Reconciler(
        parts.instances,
        parts.catalogue,
        cloud,
        history=parts.history,
        cipher=parts.cipher,
        issuer=parts.issuer,
        metrics=PhaseMetrics(parts.metrics),
        url=settings.url,
        design_url=settings.design_url,
        keys=json.dumps(json.loads(settings.verification_keys), separators=(",", ":")),
        patience=RetryPolicy(settings.phase_timeout, settings.phase_retries, settings.phase_pause),
        clock=parts.clock,
    )
    exporter = Exporter(parts.database, parts.queue, parts.metrics, owner=secrets.token_hex(8))

    def count() -> float:
        exporter.read()
        return settings.metrics_interval

    # For what nobody waits for, and nobody could be told that it was given up.
    for_ever = work.Retry.for_ever()
    return [
        work.Topic(TOPIC, reconciler, timeout=STEP_TIMEOUT, retry=work.Retry(attempts=20)),
        work.Topic(
            INVOCATION_TOPIC,
            Invocations(parts.instances, cloud, parts.cipher, clock=parts.clock),
            timeout=STEP_TIMEOUT,
        ),
        work.Topic(ROLL_TOPIC, Roll(parts.instances, parts.history, clock=parts.clock)),
        work.Topic(EXPIRY_TOPIC, RecordExpiry(parts.history)),
        work.Topic(ENTRY_TOPIC, _registration(parts), timeout=STEP_TIMEOUT, retry=for_ever),
        work.Topic(ORPHANS, OrphanedDelegations(cloud), timeout=STEP_TIMEOUT, retry=for_ever),
        work.recurring(
            discovery.TOPIC,
            discovery.look(parts.database, cloud, every=settings.catalogue_interval),
            timeout=STEP_TIMEOUT,
        ),
        work.recurring(_COUNTS, count),
        work.retention(parts.queue),
    ]


def _registration(parts: Dependencies) -> Registration:
    settings = parts.settings
    urls = {"public": settings.url}
    if settings.internal_url:
        urls["internal"] = settings.internal_url
    return Registration(
        parts.catalogue, parts.cloud, issuer=settings.issuer, urls=urls, every=settings.catalogue_interval
    )


def worker(parts: Dependencies) -> work.Worker:
    """A worker over all topics."""
    made = topics(parts)
    with parts.database.write() as connection:
        for topic in (_COUNTS, work.RETENTION, discovery.TOPIC):
            parts.queue.seed(connection, topic, topic)
        for service in parts.catalogue.types(connection):
            parts.queue.seed(connection, ENTRY_TOPIC, service)
    return work.Worker(parts.queue, made, threads=parts.settings.worker_threads, lease=parts.settings.lease)
