"""The worker of the modules: runs the handlers of their topics over the shared queue.

Any number of workers may run, each for all modules or for some. A worker for the local platform must run on the machine of its
processes. The settings determine which regions a worker serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from archelon_core import queue
from archelon_core.http import server
from occi_service.server.app import Application

from ..core import notifications
from ..core.entities import Entities
from ..core.notifications import Notifications, Send, Sender
from ..core.resource_handler import ResourceHandler
from ..deploy import retention, watching
from ..deploy.application_work import ApplicationWork
from ..deploy.stack_work import StackWork
from ..design import mirror, orphans
from ..disposal import work as disposal_work
from ..platforms.interface import Watcher
from ..provision.dns_work import DnsWork
from ..provision.work import ConfigurationWork
from ..runtime.work import AlarmWork, MonitorWork
from ..settings import CloudControllerSettings
from .dependencies import Dependencies
from .web import MODULES, modules_of, readiness_checks

#: Timeouts in seconds: of one poll of the identity service, which takes several calls, and of one sweep of everything.
_IDENTITY: Final = 60.0
_SWEEP: Final = 120.0


def topics_of(
    dependencies: Dependencies, names: Sequence[str] = MODULES, *, send: Send | None = None
) -> list[queue.Topic[Any, Any]]:
    """Return the topics of some modules. `send` delivers notifications; None sends them over OCCI."""
    registry = dependencies.registry()
    # Handlers read and write entities of any module, and the registry knows only registered kinds.
    for module in modules_of(dependencies):
        module.register(Application(registry))
    objects, entities = dependencies.objects, Entities(registry)
    delivery = notifications.Delivery(
        objects, send or Sender(dependencies.issuer()), queue=dependencies.queue, clock=dependencies.clock
    )
    notifier = Notifications(dependencies.queue, delivery.at_once)
    inventory = {region: platform.inventory for region, platform in dependencies.platforms.items()}
    configures = {region: platform.configures for region, platform in dependencies.platforms.items()}
    regions, unpacked = dependencies.regions, dependencies.unpacked
    handlers: list[ResourceHandler[Any, Any]] = []
    topics: list[queue.Topic[Any, Any]] = []
    if "deploy" in names:
        handlers += [
            ApplicationWork(
                objects,
                entities,
                notifier,
                applications=regions.applications,
                unpacked=unpacked,
                clock=dependencies.clock,
            ),
            StackWork(objects, entities, notifier, regions=regions),
        ]
        unused = retention.BundleRetention(
            dependencies.database, registry, unpacked, grace=dependencies.bundle_grace, clock=dependencies.clock
        )
        topics += [
            watching.topic(watching.Watching(dependencies.database, objects, _watchers(dependencies))),
            queue.recurring(retention.TOPIC, unused, timeout=_SWEEP),
        ]
    if "provision" in names:
        handlers += [
            ConfigurationWork(objects, entities, configures),
            DnsWork(objects, entities, dependencies.name_servers),
        ]
    if "runtime" in names:
        targets = {region: platform.targets for region, platform in dependencies.platforms.items()}
        handlers += [
            MonitorWork(objects, entities, targets=targets, clock=dependencies.clock),
            AlarmWork(objects, entities, notifier),
        ]
    if "disposal" in names:
        sweep = disposal_work.Sweep(
            dependencies.database, objects, inventory=inventory, grace=dependencies.orphan_grace
        )
        handlers.append(
            disposal_work.DisposalWork(objects, entities, notifier, inventory=inventory, clock=dependencies.clock)
        )
        topics.append(queue.recurring(disposal_work.SWEEP, sweep, timeout=_SWEEP))
    if "design" in names and dependencies.catalogue is not None:
        synchronize = mirror.synchronization(
            dependencies.database, registry, dependencies.catalogue, every=dependencies.catalogue_interval
        )
        end_orphans = orphans.orphan_removal(
            dependencies.database,
            dependencies.delegations,
            grace=dependencies.delegation_grace,
            every=dependencies.catalogue_interval,
            clock=dependencies.clock,
        )
        topics += [
            queue.recurring(mirror.TOPIC, synchronize, timeout=_IDENTITY),
            queue.recurring(orphans.TOPIC, end_orphans, timeout=_IDENTITY),
        ]
    topics += [each.as_topic() for each in handlers]
    topics.append(notifications.topic(delivery))
    topics.append(queue.retention(dependencies.queue))
    return topics


def worker_of(
    dependencies: Dependencies,
    names: Sequence[str] = MODULES,
    *,
    send: Send | None = None,
    threads: int = 8,
    lease: float = 10.0,
) -> queue.Worker:
    """Return a worker that is not started; seeds the recurring topics."""
    with dependencies.database.write() as connection:
        dependencies.queue.seed(connection, queue.RETENTION, "all", priority=queue.Priority.BACKGROUND)
        if "disposal" in names:
            dependencies.queue.seed(connection, disposal_work.SWEEP, "all", priority=queue.Priority.BACKGROUND)
        if "design" in names and dependencies.catalogue is not None:
            for topic in (mirror.TOPIC, orphans.TOPIC):
                dependencies.queue.seed(connection, topic, topic, priority=queue.Priority.BACKGROUND)
        if "deploy" in names:
            dependencies.queue.seed(connection, retention.TOPIC, "all", priority=queue.Priority.BACKGROUND)
            for region in _watchers(dependencies):
                # Now, not when a former worker's watch would have been continued.
                dependencies.queue.enqueue(connection, watching.TOPIC, region)
    return queue.Worker(dependencies.queue, topics_of(dependencies, names, send=send), threads=threads, lease=lease)


def _watchers(dependencies: Dependencies) -> dict[str, Watcher]:
    found = {region: platform.watcher for region, platform in dependencies.platforms.items()}
    return {region: watcher for region, watcher in found.items() if watcher is not None}


def run(
    settings: CloudControllerSettings,
    names: Sequence[str] = MODULES,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
) -> int:
    """Work until SIGTERM and return the exit status of the process. `port` serves probes and metrics, on `host`."""
    dependencies = Dependencies.of(settings)
    return server.run_worker(
        worker_of(dependencies, names), port=port, host=host, checks=readiness_checks(dependencies)
    )
