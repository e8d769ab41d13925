"""WSGI applications of the modules, each mounted at its own path (`/design`, `/deploy`, …).

The middleware of `occi_service.server.service` (sizes, rates, tokens) wraps each; probes bypass it. No request handler makes a
blocking call to a platform.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import prometheus_client

import bundles
from archelon_api import deploy, tokens
from archelon_core import auth, health
from archelon_core.addresses import is_loopback
from archelon_core.auth.size_limit import MAX_BODY
from archelon_core.http import server
from archelon_core.http.connection import ConnectionLimits
from archelon_core.http.gunicorn_worker import server_field
from occi_service.server import service
from occi_service.server.app import Application

from ..core.module import Module, ModuleApplication
from ..deploy.backend import DeployModule
from ..design.backend import DesignModule, register_modules, register_names, remove_untrusted
from ..design.delegation_rows import DelegationRows
from ..disposal.backend import DisposalModule
from ..provision.backend import ProvisionModule
from ..runtime.backend import RuntimeModule
from ..settings import CloudControllerSettings
from .dependencies import Dependencies

MODULES: Final = ("design", "deploy", "provision", "runtime", "disposal")


def modules_of(dependencies: Dependencies, names: Sequence[str] = MODULES) -> list[Module]:
    """Return the modules with these names. Raises ValueError for an unknown name."""
    objects = dependencies.objects
    configures = {region: platform.configures for region, platform in dependencies.platforms.items()}
    factories: Mapping[str, Callable[[], Module]] = {
        "design": lambda: DesignModule(
            dependencies.issuer(),
            platforms=dependencies.platforms,
            delegations=dependencies.delegations,
            database=dependencies.database,
        ),
        "deploy": lambda: DeployModule(objects, dependencies.regions, database=dependencies.database),
        "provision": lambda: ProvisionModule(objects, configures, dependencies.name_servers),
        "runtime": lambda: RuntimeModule(objects, clock=dependencies.clock),
        "disposal": lambda: DisposalModule(objects),
    }
    unknown = [name for name in names if name not in factories]
    if unknown:
        raise ValueError(f"unknown module {', '.join(unknown)}; expected one of {', '.join(MODULES)}")
    return [factories[name]() for name in names]


class Mounts:
    """Dispatches a request to the application mounted at the first segment of its path."""

    def __init__(self, applications: Mapping[str, WSGIApplication]) -> None:
        self._applications = dict(applications)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI."""
        path: str = environ.get("PATH_INFO", "")
        _, name, rest = [*path.split("/", 2), "", ""][:3]
        if path in auth.PROBES:
            # Any mounted application can answer: they share process and database.
            return next(iter(self._applications.values()))(environ, start_response)
        application = self._applications.get(name)
        if application is None or path == f"/{name}":
            mounts = ", ".join(f"/{each}/" for each in self._applications)
            return _plain(environ, start_response, "404 Not Found", {"error": f"not found; expected one of {mounts}"})
        environ["SCRIPT_NAME"] = f"{environ.get('SCRIPT_NAME', '')}/{name}"
        environ["PATH_INFO"] = f"/{rest}"
        return application(environ, start_response)


def application(
    dependencies: Dependencies, names: Sequence[str] = MODULES, *, base_url: str | None = None
) -> WSGIApplication:
    """Return the WSGI callable of some modules. Call it in the process that serves."""
    objects = dependencies.objects

    def owner(path: str) -> str | None:
        with dependencies.database.read() as connection:
            instance = path.rpartition("/")[2]
            found = objects.owner(connection, path) or objects.tenant_of(connection, instance)
            delegated = None if found is not None else DelegationRows().find(connection, instance)
            return found if delegated is None else delegated.tenant

    verifier = auth.AnyOf(_verifiers(dependencies))
    checks = readiness_checks(dependencies)
    heavy = auth.HeavyRequests()

    def mounted(module: Module) -> WSGIApplication:
        application = ModuleApplication(dependencies.registry(), module, owner=owner, base_url=base_url)
        served: WSGIApplication = service.assemble(
            application,
            verifier,
            checks=checks,
            registry=prometheus_client.CollectorRegistry(),
            heavy=heavy,
            body_limit=_body_limit,
            metrics_token=dependencies.metrics_token,
            trusted_proxies=dependencies.trusted_proxies,
            rates=dependencies.rates,
        )
        return served

    modules = modules_of(dependencies, names)
    registry = dependencies.registry()
    modules_of(dependencies, ["design"])[0].register(Application(registry))
    for region, platform in dependencies.platforms.items():
        url = base_url or dependencies.url
        register_modules(registry, names, url=url, region=region, delegates=platform.delegates)
        if "provision" in names:
            register_names(registry, url=url, region=region, kept=platform.names is not None)
    remove_untrusted(registry)
    return Mounts({module.name: mounted(module) for module in modules})


def readiness_checks(dependencies: Dependencies) -> list[health.Check]:
    """Return the checks of `/readyz`: the database, and for information how tenants' code is isolated on this machine."""
    return [
        health.Check("database", dependencies.database.prove),
        *_isolation_checks(dependencies),
    ]


def _isolation_checks(dependencies: Dependencies) -> list[health.Check]:
    return [
        health.Check(f"isolation in {region}", functools.partial(str, platform.isolation))
        for region, platform in dependencies.platforms.items()
        if platform.isolation is not None
    ]


def _verifiers(dependencies: Dependencies) -> list[auth.TokenVerifier]:
    signed = auth.SignedTokens(
        dependencies.keys,
        audiences=[tokens.AUDIENCE_CLOUD_CONTROLLER],
        revocations=auth.MemoryRevocations(dependencies.clock),
        clock=dependencies.clock,
    )
    return [signed] if dependencies.realm is None else [signed, dependencies.realm]


def _body_limit(path: str) -> int:
    return bundles.ArchiveLimits().packed if path.startswith(deploy.BUNDLE.location) else MAX_BODY


def _plain(
    environ: WSGIEnvironment, start_response: StartResponse, status: str, document: Mapping[str, str]
) -> Iterable[bytes]:
    body = json.dumps(document).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def serve(settings: CloudControllerSettings, names: Sequence[str] = MODULES) -> None:
    """Serve until SIGTERM, then raise SystemExit. Raises ValueError if a local platform would be reachable by others."""
    _check_embedded(settings)
    server.serve(
        lambda: application(Dependencies.of(settings), names, base_url=settings.cloud_controller_url),
        bind=settings.cloud_controller_bind,
        server=server_field("archelon", "0.1.0"),
        workers=settings.web_processes,
        limits=ConnectionLimits.of(settings, body=lambda path: _body_limit(path.removeprefix("/deploy"))),
        trusted_proxies=[str(network) for network in settings.trusted_proxies],
    )


def _check_embedded(settings: CloudControllerSettings) -> None:
    bind = settings.cloud_controller_bind
    embedded = [name for name, region in settings.regions.items() if region.platform == "local"]
    if settings.force_embedded or not embedded or bind.startswith("unix:"):
        return
    if not is_loopback(bind.rpartition(":")[0].strip("[]")):
        raise ValueError(
            f"{bind} can be reached from other machines, and region {embedded[0]} is local: it runs bundles as this "
            "user; listen on 127.0.0.1, choose another platform, or set ARCHELON_FORCE_EMBEDDED to allow it"
        )
