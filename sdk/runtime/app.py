"""Assembles an orchestrator's process: middleware, HTTP adapter, engine, report queue, and the bundle's class."""

from __future__ import annotations

import time
from wsgiref.types import WSGIApplication

import bundles
from archelon_api import tokens
from archelon_core.auth import Authentication, MemoryRevocations, SignedTokens, SizeLimit, TokenCache, read_jwk_set
from occi_service.server.app import ErrorBoundary

from ..dns import NameServer, ZoneFiles
from ..events import IdempotencyScope
from ..instance import Instance
from ..orchestrator import Orchestrator, OrchestratorContext
from ..private_state import Private
from ..settings import Settings
from .engine import Engine
from .http import OrchestratorApplication
from .loading import load_class
from .reporting import ReportQueue
from .services import HttpServiceClients
from .waiting import CancellableWaiter


def application(settings: Settings) -> WSGIApplication:
    """Build the WSGI application. Call it in the process that serves: it starts threads."""
    report_queue = ReportQueue(settings.url, settings.start_token)
    private, waiter, scope = Private(), CancellableWaiter(), IdempotencyScope()
    services = HttpServiceClients(report_queue, settings.design_url, waiter=waiter)
    names: NameServer | None = ZoneFiles(settings.zones) if settings.zones else None
    contexts: list[OrchestratorContext] = []

    def make(instance: Instance) -> Orchestrator:
        bundle = bundles.Bundle.load(settings.bundle, checked=True)
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
        read_jwk_set(settings.keys),
        audiences=[tokens.audience_of_orchestrator(settings.instance)],
        revocations=MemoryRevocations(time.time),
        clock=time.time,
    )
    application = OrchestratorApplication(settings.instance, engine, report_queue)
    authentication = Authentication(
        application, verifier, cache=TokenCache(time.time, entries=64), render_error=application.render_error
    )
    engine.open()
    report_queue.open()
    return ErrorBoundary(SizeLimit(authentication, render_error=application.render_error), application)
