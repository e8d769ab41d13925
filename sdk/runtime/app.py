"""Assembles an orchestrator: middleware, HTTP adapter, engine, report queue, and the bundle's class."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from wsgiref.types import WSGIApplication

import bundles
from archelon_api import tokens
from archelon_core.auth import (
    Authentication,
    MemoryRevocations,
    SignedTokens,
    SizeLimit,
    TokenCache,
    VerificationKeys,
    read_jwk_set,
)
from occi_service.server.app import ErrorBoundary

from ..dns import NameServer, ZoneFiles
from ..events import IdempotencyScope
from ..instance import Instance
from ..orchestrator import Orchestrator, OrchestratorContext
from ..private_state import Private
from ..settings import Settings
from .clients import Clients
from .engine import Engine
from .http import OrchestratorApplication
from .loading import load_class
from .reporting import ReportQueue
from .services import HttpServiceClients
from .waiting import CancellableWaiter


def load_checked(directory: Path) -> bundles.Bundle:
    """Load a bundle that was checked when it was published. Raises bundles.BundleError."""
    return bundles.Bundle.load(directory, checked=True)


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the orchestrators of a process share because it is equal for all; none of it holds a token or a tenant's data.

    Attributes:
        clients: of other services.
        load: loads a bundle by its directory.
        keys: reads a JWK set; raises ValueError.
        applications: makes the application of an orchestrator, which is assigned later.
    """

    clients: Clients = dataclasses.field(default_factory=Clients)
    load: Callable[[Path], bundles.Bundle] = load_checked
    keys: Callable[[str], VerificationKeys] = read_jwk_set
    applications: Callable[[], OrchestratorApplication] = OrchestratorApplication


@dataclasses.dataclass(frozen=True, slots=True)
class Assembled:
    """An orchestrator: its WSGI application, and what works behind it once it is opened."""

    application: WSGIApplication
    engine: Engine
    report_queue: ReportQueue


def application(settings: Settings, shared: Shared) -> WSGIApplication:
    """Build and start the only orchestrator of this process; return its WSGI application."""
    made = assemble(settings, shared)
    made.engine.open()
    made.report_queue.open()
    return made.application


def assemble(settings: Settings, shared: Shared) -> Assembled:
    """Build an orchestrator; nothing is started. Raises ValueError: the settings' keys are invalid."""
    report_queue = ReportQueue(settings.url, settings.start_token, bundle=settings.digest, clients=shared.clients)
    private, waiter, scope = Private(), CancellableWaiter(), IdempotencyScope()
    services = HttpServiceClients(report_queue, settings.design_url, waiter=waiter, clients=shared.clients)
    names: NameServer | None = ZoneFiles(settings.zones) if settings.zones else None
    contexts: list[OrchestratorContext] = []

    def make(instance: Instance) -> Orchestrator:
        bundle = shared.load(settings.bundle)
        context = OrchestratorContext(
            instance, bundle=bundle, services=services, waiter=waiter, names=names, private=private, scope=scope
        )
        made = load_class(bundle)(context)
        contexts[:] = [context]
        return made

    def accept(instance: Instance) -> None:
        for each in contexts:
            each.instance = instance

    engine = Engine(make, private=private, reports=report_queue, waiter=waiter, scope=scope, accept=accept)
    verifier = SignedTokens(
        shared.keys(settings.keys),
        audiences=[tokens.audience_of_orchestrator(settings.instance)],
        revocations=MemoryRevocations(time.time),
        clock=time.time,
    )
    application = shared.applications()
    application.assign(settings.instance, engine, report_queue)
    report_queue.on_order(application.take_order)
    authentication = Authentication(
        application, verifier, cache=TokenCache(time.time, entries=64), render_error=application.render_error
    )
    limited = SizeLimit(authentication, render_error=application.render_error)
    return Assembled(ErrorBoundary(limited, application), engine, report_queue)
