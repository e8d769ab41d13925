"""Puts an orchestrator's parts together: the door, the face, the engine, the line, and the bundle's class."""

from __future__ import annotations

import time
from wsgiref.types import WSGIApplication

import bundles
from archelon_api import tokens
from archelon_core.auth import Authentication, MemoryRevocations, SignedTokens, SizeLimit, TokenCache, read_jwk_set
from occi_service.server.app import ErrorBoundary

from ..dns import NameServer, ZoneFiles
from ..events import Occasion
from ..instance import Instance
from ..orchestrator import Orchestrator, Situation
from ..private_state import Private
from ..settings import Settings
from .engine import Engine
from .http import Face
from .loading import load_class
from .reporting import Line
from .services import NetworkReach
from .waiting import WakingPace


def application(settings: Settings) -> WSGIApplication:
    """The orchestrator as WSGI, at work. Call it in the process that serves: it starts two threads."""
    line = Line(settings.url, settings.start_token)
    private, pace, occasion = Private(), WakingPace(), Occasion()
    reach = NetworkReach(line, settings.design_url, pace=pace)
    names: NameServer | None = ZoneFiles(settings.zones) if settings.zones else None
    situations: list[Situation] = []

    def make(instance: Instance) -> Orchestrator:
        bundle = bundles.Bundle.load(settings.bundle)
        situation = Situation(
            instance, bundle=bundle, reach=reach, pace=pace, names=names, private=private, occasion=occasion
        )
        made = load_class(bundle)(situation)
        situations[:] = [situation]
        return made

    def accept(instance: Instance) -> None:
        for each in situations:
            each.instance = instance

    engine = Engine(make, private=private, reports=line, pace=pace, occasion=occasion, accept=accept)
    verifier = SignedTokens(
        read_jwk_set(settings.keys),
        audiences=[tokens.audience_of_orchestrator(settings.instance)],
        revocations=MemoryRevocations(time.time),
        clock=time.time,
    )
    face = Face(settings.instance, engine, line)
    door = Authentication(face, verifier, cache=TokenCache(time.time, entries=64), render_error=face.render_error)
    engine.open()
    line.open()
    return ErrorBoundary(SizeLimit(door, render_error=face.render_error), face)
