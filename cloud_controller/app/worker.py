"""The worker of the modules: the handlers of their topics over the one queue.

Any number may run, of all modules or of some. A worker that runs applications or stacks on the local platform belongs on the
machine where their processes are; which regions it serves is what its settings open.
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
from .web import MODULES, isolation_checks, modules_of

#: Seconds for one look at the identity service, which takes several calls, and for one sweep of all there is.
_IDENTITY: Final = 60.0
_SWEEP: Final = 120.0


def topics_of(
    parts: Dependencies, names: Sequence[str] = MODULES, *, send: Send | None = None
) -> list[queue.Topic[Any, Any]]:
    """The topics of some modules.

    Args:
        send: delivers notices; over OCCI without one.
    """
    registry = parts.registry()
    # What is read and written here may be of any module: a registry knows an entity by its kind's registration.
    for module in modules_of(parts):
        module.register(Application(registry))
    objects, entities, told = parts.objects, Entities(registry), Notifications(parts.queue)
    inventory = {region: platform.inventory for region, platform in parts.platforms.items()}
    configures = {region: platform.configures for region, platform in parts.platforms.items()}
    regions, unpacked = parts.regions, parts.unpacked
    handlers: list[ResourceHandler[Any, Any]] = []
    topics: list[queue.Topic[Any, Any]] = []
    if "deploy" in names:
        handlers += [
            ApplicationWork(
                objects, entities, told, applications=regions.applications, unpacked=unpacked, clock=parts.clock
            ),
            StackWork(objects, entities, told, regions=regions),
        ]
        unused = retention.BundleRetention(
            parts.database, registry, unpacked, grace=parts.bundle_grace, clock=parts.clock
        )
        topics += [
            watching.topic(watching.Watching(parts.database, objects, _watchers(parts))),
            queue.recurring(retention.TOPIC, unused, timeout=_SWEEP),
        ]
    if "provision" in names:
        handlers += [ConfigurationWork(objects, entities, configures), DnsWork(objects, entities, parts.name_servers)]
    if "runtime" in names:
        targets = {region: platform.targets for region, platform in parts.platforms.items()}
        handlers += [
            MonitorWork(objects, entities, targets=targets, clock=parts.clock),
            AlarmWork(objects, entities, told),
        ]
    if "disposal" in names:
        sweep = disposal_work.Sweep(parts.database, objects, inventory=inventory, grace=parts.orphan_grace)
        handlers.append(disposal_work.DisposalWork(objects, entities, told, inventory=inventory, clock=parts.clock))
        topics.append(queue.recurring(disposal_work.SWEEP, sweep, timeout=_SWEEP))
    if "design" in names and parts.catalogue is not None:
        compare = mirror.mirrored(parts.database, registry, parts.catalogue, every=parts.catalogue_interval)
        ended = orphans.orphans_ended(
            parts.database,
            parts.delegations,
            grace=parts.delegation_grace,
            every=parts.catalogue_interval,
            clock=parts.clock,
        )
        topics += [
            queue.recurring(mirror.TOPIC, compare, timeout=_IDENTITY),
            queue.recurring(orphans.TOPIC, ended, timeout=_IDENTITY),
        ]
    topics += [each.as_topic() for each in handlers]
    topics.append(
        notifications.topic(notifications.Delivery(objects, send or Sender(parts.issuer()), clock=parts.clock))
    )
    topics.append(queue.retention(parts.queue))
    return topics


def worker_of(
    parts: Dependencies,
    names: Sequence[str] = MODULES,
    *,
    send: Send | None = None,
    threads: int = 4,
    lease: float = 10.0,
) -> queue.Worker:
    """A worker, not started; what recurs is seeded."""
    with parts.database.write() as connection:
        parts.queue.seed(connection, queue.RETENTION, "all", priority=queue.Priority.BACKGROUND)
        if "disposal" in names:
            parts.queue.seed(connection, disposal_work.SWEEP, "all", priority=queue.Priority.BACKGROUND)
        if "design" in names and parts.catalogue is not None:
            for topic in (mirror.TOPIC, orphans.TOPIC):
                parts.queue.seed(connection, topic, topic, priority=queue.Priority.BACKGROUND)
        if "deploy" in names:
            parts.queue.seed(connection, retention.TOPIC, "all", priority=queue.Priority.BACKGROUND)
            for region in _watchers(parts):
                parts.queue.seed(connection, watching.TOPIC, region)
    return queue.Worker(parts.queue, topics_of(parts, names, send=send), threads=threads, lease=lease)


def _watchers(parts: Dependencies) -> dict[str, Watcher]:
    found = {region: platform.watcher for region, platform in parts.platforms.items()}
    return {region: watcher for region, watcher in found.items() if watcher is not None}


def run(
    settings: CloudControllerSettings,
    names: Sequence[str] = MODULES,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
) -> int:
    """Work until SIGTERM; the exit status for the process. `port` serves probes and metrics, on the address `host`."""
    parts = Dependencies.of(settings)
    return server.run_worker(worker_of(parts, names), port=port, host=host, checks=isolation_checks(parts))
