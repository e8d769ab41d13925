"""Runs a bundle's orchestrator: `python -m sdk.serve [directory]`, told by its environment whose it is and where to listen.

`HOST` and `PORT` are the launcher's, the `ARCHELON_…` of `occi_service.wire.orchestrator` the service manager's. One gunicorn
worker holds everything; where it is killed, a new one starts, renews its tokens, and is activated again. A bundle that cannot be
run answers all the same: what is wrong with it is reported with the first phase.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from wsgiref.types import WSGIApplication

import bundles
from occi_service import logs, redaction, server
from occi_service.identity import (
    Authentication,
    MemoryRevocations,
    SignedTokens,
    SizeLimit,
    TokenCache,
    read_jwk_set,
)
from occi_service.version import __version__
from occi_service.wire import orchestrator as wire
from occi_service.wire import tokens

from .dns import ENV_ZONES, NameServer, NoNameServer, ZoneFiles
from .engine import Engine, WakingPace
from .face import Face
from .instance import Instance
from .line import Line
from .loading import load_class
from .orchestrator import Orchestrator, Situation
from .private import Private
from .reach import NetworkReach

__all__ = ["Settings", "application", "main"]

_LOG: Final = logging.getLogger("archelon.sdk")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        bundle: its directory.
        instance: id of the instance; `url` is its own at the service manager, `design_url` the design module's.
        start_token: for `renew`; `keys`, a JWK set, are what callers' tokens are signed with.
        bind: where to listen.
        zones: directory of zone files, or None.
    """

    bundle: Path
    instance: str
    url: str
    design_url: str
    start_token: str = dataclasses.field(repr=False)
    keys: str = dataclasses.field(repr=False)
    bind: str
    zones: Path | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str], bundle: Path) -> Settings:
        """Out of an environment. Raises ValueError with all that is missing."""
        needed = (wire.ENV_INSTANCE, wire.ENV_SERVICE_MANAGER, wire.ENV_DESIGN, wire.ENV_TOKEN, wire.ENV_KEYS)
        missing = [name for name in needed if not environment.get(name)]
        if missing:
            raise ValueError(f"the environment lacks {', '.join(missing)}; a service manager sets them")
        zones = environment.get(ENV_ZONES)
        instance, url, design_url, start_token, keys = [environment[name] for name in needed]
        return cls(
            bundle=bundle,
            instance=instance,
            url=url,
            design_url=design_url,
            start_token=start_token,
            keys=keys,
            bind=f"{environment.get('HOST', '127.0.0.1')}:{environment.get('PORT', '8080')}",
            zones=Path(zones) if zones else None,
        )


def application(settings: Settings) -> WSGIApplication:
    """The orchestrator as WSGI, at work. Call it in the process that serves: it starts two threads."""
    line = Line(settings.url, settings.start_token)
    reach = NetworkReach(line, settings.design_url)
    private, pace = Private(), WakingPace()
    names: NameServer = ZoneFiles(settings.zones) if settings.zones else NoNameServer()
    situations: list[Situation] = []

    def make(instance: Instance) -> Orchestrator:
        bundle = bundles.Bundle.load(settings.bundle)
        situation = Situation(instance, bundle=bundle, reach=reach, pace=pace, names=names, private=private)
        made = load_class(bundle)(situation)
        situations[:] = [situation]
        return made

    def accept(instance: Instance) -> None:
        for each in situations:
            each.instance = instance

    engine = Engine(make, private=private, reports=line, pace=pace, accept=accept)
    verifier = SignedTokens(
        read_jwk_set(settings.keys),
        audiences=[tokens.audience_of_orchestrator(settings.instance)],
        revocations=MemoryRevocations(time.time),
        clock=time.time,
    )
    door = Authentication(Face(settings.instance, engine, line), verifier, cache=TokenCache(time.time, entries=64))
    engine.open()
    line.open()
    return SizeLimit(door)


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM. Raises SystemExit."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        settings = Settings.read(os.environ, Path(given[0] if given else "."))
        read_jwk_set(settings.keys)
    except ValueError as error:
        raise SystemExit(f"sdk.serve: {error}") from None
    redactor = redaction.Redactor([settings.start_token])
    logs.configure(redactor, service="orchestrator")
    # Nothing that the author runs sees the start token.
    os.environ.pop(wire.ENV_TOKEN, None)
    server.serve(
        lambda: application(settings),
        bind=settings.bind,
        server=server.server_field("archelon-sdk", __version__),
        workers=1,
        threads=4,
        share_metrics=False,
        graceful_timeout=5,
    )


if __name__ == "__main__":
    main()
