"""Assembles the service manager's components for a web process or a worker."""

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

from archelon_api import design
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
from .lifecycle import bundle_retention
from .lifecycle.actions import Invocations
from .lifecycle.changes import Changes
from .lifecycle.health import HEALTH_TOPIC, HealthWork, InstanceHealth
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
from .store.instances import TOPIC, Instances
from .store.services import ENTRY_TOPIC, Catalogue
from .store.start_tokens import START_ISSUER, StartTokens

#: Alembic's revisions of this package.
MIGRATIONS = Path(__file__).parent / "migrations" / "versions"

_COUNTS = "instance.counts"
#: Polls of the catalogue for each comparison of a service's entries with it.
_REPAIR = 10
#: Mount of Hurtle's dialect.
_HURTLE = "/hurtle"


class _ExistingInstances:
    """`archelon_core.auth.InstanceLookup` over the instances table."""

    def __init__(self, database: Database, instances: Instances) -> None:
        self._database = database
        self._instances = instances

    def exists(self, instance_id: str, tenant_id: str) -> bool:
        """Return whether the tenant has the instance."""
        with self._database.read() as connection:
            return self._instances.exists(connection, instance_id, tenant_id)


@dataclasses.dataclass(frozen=True, slots=True)
class Dependencies:
    """The components that web and worker processes share."""

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
    instance_health: InstanceHealth
    catalogue: Catalogue
    changes: Changes
    cloud: Cloud
    backend: InstanceBackend
    policy: Policy
    metrics: prometheus_client.CollectorRegistry
    clock: Callable[[], float]

    @classmethod
    def of(cls, settings: ServiceManagerSettings, *, clock: Callable[[], float] = time.time) -> Dependencies:
        """Create the components for these settings, and upgrade the database's schema.

        Raises:
            ValueError: a key, the policy file or the database URL is invalid.
        """
        pool = max(settings.web_threads, settings.worker_threads) + 4
        database = Database(settings.database_url.get_secret_value(), pool_size=pool)
        upgrade(database, MIGRATIONS)
        cipher = Cipher([key.strip() for key in settings.encryption_keys.get_secret_value().split(",")])
        keys = read_jwk_set(settings.verification_keys)
        signing = SigningKey.from_pem(settings.signing_key.get_secret_value().encode(), issuer=settings.issuer)
        revocations = SqlRevocations(database, clock)
        queue = work.WorkQueue(database, clock=clock)
        policy = Policy(Path(settings.policy_file) if settings.policy_file else None)
        registry = SqlRegistry(database, cipher, mixin_backend=OwnMixins(policy))
        instances = Instances(registry, queue)
        existing = _ExistingInstances(database, instances)
        issuer = TokenIssuer(signing, keys=keys, instances=existing, revocations=revocations, clock=clock)
        history = History(registry, queue, name=settings.name, retention=settings.record_retention)
        instance_health = InstanceHealth(instances, history, clock=clock)
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
        metrics = prometheus_client.CollectorRegistry()
        changes = Changes(
            instances,
            catalogue,
            history,
            PhaseMetrics(metrics),
            instance_health,
            retry_policy=RetryPolicy(settings.phase_timeout, settings.phase_retries, settings.phase_pause),
            clock=clock,
        )
        dependencies = cls(
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
            instance_health=instance_health,
            catalogue=catalogue,
            changes=changes,
            cloud=cloud,
            backend=backend,
            policy=policy,
            metrics=metrics,
            clock=clock,
        )
        dependencies._register()
        return dependencies

    @property
    def own_issuers(self) -> frozenset[str]:
        """The issuers of this service manager's own instance tokens."""
        return frozenset((self.settings.issuer, START_ISSUER))

    def database_check(self) -> health.Check:
        """The readiness check of the database."""
        return health.Check("database", self.database.prove)

    def _register(self) -> None:
        """Register the built-in categories; the catalogue registers those of services."""
        reports = ReportBackend(
            self.instances,
            self.catalogue,
            changes=self.changes,
            health=self.instance_health,
            cipher=self.cipher,
            issuer=self.issuer,
            issuers=self.own_issuers,
            policy=self.policy,
        )
        published = PublishedBackend(self.catalogue, self.instances, policy=self.policy, clock=self.clock)
        for backend, categories in (
            (reports, (wire.REPORT, wire.RENEW)),
            (self.backend, wire.LIFECYCLE_ACTIONS),
            (published, (wire.PUBLISHED, *wire.ROLL_ACTIONS)),
            (RecordBackend(self.policy), (wire.RECORD, wire.DEPENDENCY, wire.RESOURCE_LINK)),
        ):
            for category in categories:
                self.registry.set_backend(category, backend, None)


def body_limit(settings: ServiceManagerSettings) -> Callable[[str], int]:
    """Return the limit of a request body in bytes, by path."""
    return lambda path: settings.bundle_limit if path.startswith("/bundle/") else MAX_BODY


def web(dependencies: Dependencies) -> Any:
    """Create the WSGI application: OCCI 1.2 at `/`, and the same instances in Hurtle's dialect at `/hurtle`."""
    settings = dependencies.settings
    application = _application(dependencies, "1.2")
    bundle = BundleResource(dependencies.catalogue, dependencies.policy, limit=settings.bundle_limit)
    application.falcon.add_route("/bundle/{digest}", bundle)
    operator = OperatorResource(
        dependencies.database,
        dependencies.instances,
        dependencies.catalogue,
        history=dependencies.history,
        policy=dependencies.policy,
        queue=dependencies.queue,
        clock=dependencies.clock,
    )
    application.falcon.add_route("/operator/instances", operator, suffix="instances")
    application.falcon.add_route("/operator/instances/{instance}", operator, suffix="instance")
    application.falcon.add_route("/operator/work", operator, suffix="work")
    application.falcon.add_route("/operator/services", operator, suffix="services")
    application.falcon.add_route("/operator/rolls", operator, suffix="rolls")
    application.falcon.add_route("/update/children", operator, suffix="children")
    application.falcon.add_route("/operator/draining", operator, suffix="draining")
    wrap = functools.partial(
        assemble,
        rates=Rates.of(settings),
        heavy=HeavyRequests(total=max(1, settings.web_threads // 2)),
        access_lines=settings.access_log,
        trusted_proxies=[str(network) for network in settings.trusted_proxies],
        realm_name=settings.name,
    )
    occi = wrap(
        application,
        verifier(dependencies),
        checks=[dependencies.database_check()],
        registry=dependencies.metrics,
        body_limit=body_limit(settings),
        metrics_token=settings.metrics_token.get_secret_value(),
    )
    hurtle_application = _application(dependencies, "pyssf")
    hurtle_application.falcon.add_route("/update/children", operator, suffix="children")
    hurtle = wrap(hurtle_application, verifier(dependencies), registry=prometheus_client.CollectorRegistry())

    def dispatch(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        if path == _HURTLE or path.startswith(f"{_HURTLE}/"):
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + _HURTLE
            environ["PATH_INFO"] = path.removeprefix(_HURTLE) or "/"
            return hurtle(environ, start_response)
        return occi(environ, start_response)

    return dispatch


def _application(dependencies: Dependencies, dialect: Literal["1.2", "pyssf"]) -> ServiceManager:
    return ServiceManager(
        dependencies.registry,
        catalogue=dependencies.catalogue,
        exists=_ExistingInstances(dependencies.database, dependencies.instances).exists,
        issuers=dependencies.own_issuers,
        reach=functools.partial(
            ComposedServices,
            database=dependencies.database,
            instances=dependencies.instances,
            catalogue=dependencies.catalogue,
        ),
        policy=dependencies.policy,
        realm_name=dependencies.settings.name,
        urls=[url for url in (dependencies.settings.url, dependencies.settings.internal_url) if url],
        dialect=dialect,
    )


def verifier(dependencies: Dependencies) -> AnyOf:
    """Create the verifier of callers: users of the local realm or Keystone, orchestrators (also at their start), services.

    The settings alone determine which issuers are trusted.
    """
    settings = dependencies.settings
    sources: list[Any] = [
        StartTokens(dependencies.database, dependencies.cipher),
        SignedTokens(
            dependencies.keys,
            audiences=Audiences(dependencies.catalogue),
            revocations=dependencies.revocations,
            clock=dependencies.clock,
        ),
    ]
    if settings.realm_file:
        sources.insert(0, Realm(RealmFile(Path(settings.realm_file), dependencies.clock), dependencies.clock))
    if settings.keystone_url:
        # Not loaded by an installation without Keystone.
        from archelon_core.auth.keystone import KeystoneTokens, RoleMap
        from archelon_core.auth.keystone_api import Keystone

        keystone = Keystone(settings.keystone_url, ca_file=settings.keystone_ca_file)
        roles = RoleMap(settings.keystone_roles, operator_project=settings.keystone_operator_project)
        # Last, since it is the only remote one.
        sources.append(KeystoneTokens(keystone, roles=roles, clock=dependencies.clock))
    return AnyOf(sources)


def topics(dependencies: Dependencies) -> list[work.Topic[Any, Any]]:
    """Return the topics that a worker handles."""
    settings = dependencies.settings
    cloud = dependencies.cloud
    reconciler = Reconciler(
        dependencies.instances,
        dependencies.catalogue,
        cloud,
        changes=dependencies.changes,
        cipher=dependencies.cipher,
        issuer=dependencies.issuer,
        url=settings.internal_url or settings.url,
        design_url=settings.design_url,
        keys=json.dumps(json.loads(settings.verification_keys), separators=(",", ":")),
        clock=dependencies.clock,
    )
    urls = {"public": settings.url}
    if settings.internal_url:
        urls["internal"] = settings.internal_url
    if settings.hurtle_catalogue:
        urls[design.HURTLE] = settings.url + _HURTLE
    registration = Registration(
        dependencies.catalogue,
        cloud,
        issuer=settings.issuer,
        urls=urls,
        every=_REPAIR * settings.catalogue_interval,
    )

    def enter_all(connection: sa.Connection) -> None:
        for service in dependencies.catalogue.types(connection):
            dependencies.queue.enqueue(connection, ENTRY_TOPIC, service)

    exporter = Exporter(
        dependencies.database,
        dependencies.queue,
        dependencies.metrics,
        owner=secrets.token_hex(8),
        every=settings.metrics_interval,
    )

    def lead() -> float:
        exporter.lead()
        return settings.metrics_interval

    unused = bundle_retention.BundleRetention(
        dependencies.database, dependencies.registry, grace=settings.bundle_retention, clock=dependencies.clock
    )
    # Retried forever: no caller waits for the result, so a final failure could not be reported to anyone.
    forever = work.Retry.forever()
    return [
        work.Topic(TOPIC, reconciler, timeout=STEP_TIMEOUT, retry=work.Retry(attempts=20)),
        work.Topic(
            INVOCATION_TOPIC,
            Invocations(dependencies.instances, cloud, dependencies.cipher, clock=dependencies.clock),
            timeout=STEP_TIMEOUT,
        ),
        work.Topic(
            HEALTH_TOPIC,
            HealthWork(
                dependencies.instances, dependencies.catalogue, dependencies.instance_health, dependencies.history
            ),
            retry=forever,
        ),
        work.Topic(
            ROLL_TOPIC,
            Roll(dependencies.instances, dependencies.catalogue, dependencies.history, clock=dependencies.clock),
        ),
        work.Topic(EXPIRY_TOPIC, RecordExpiry(dependencies.history)),
        work.Topic(ENTRY_TOPIC, registration, timeout=STEP_TIMEOUT, retry=forever),
        work.Topic(ORPHANS, OrphanedDelegations(cloud), timeout=STEP_TIMEOUT, retry=forever),
        work.recurring(
            discovery.TOPIC,
            discovery.poll(dependencies.database, cloud, every=settings.catalogue_interval, changed=enter_all),
            timeout=STEP_TIMEOUT,
        ),
        work.recurring(_COUNTS, lead),
        work.recurring(bundle_retention.TOPIC, unused, timeout=STEP_TIMEOUT),
        work.retention(dependencies.queue),
    ]


def worker(dependencies: Dependencies) -> work.Worker:
    """Create a worker for all topics, and seed the recurring ones."""
    handled = topics(dependencies)
    with dependencies.database.write() as connection:
        for topic in (_COUNTS, work.RETENTION, discovery.TOPIC, bundle_retention.TOPIC):
            dependencies.queue.seed(connection, topic, topic)
        for service in dependencies.catalogue.types(connection):
            dependencies.queue.seed(connection, ENTRY_TOPIC, service)
    return work.Worker(
        dependencies.queue, handled, threads=dependencies.settings.worker_threads, lease=dependencies.settings.lease
    )
