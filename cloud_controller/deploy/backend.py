"""The deploy module: its kinds, actions and routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from occi.backend import ActionBackend
from occi.core_model import Action, Entity

import bundles
from archelon_api import deploy
from archelon_core.database import Database
from occi_service.registry.base import as_registry
from occi_service.server.app import Application

from ..core.module import Module
from ..core.resources import Objects
from .applications import AppBackend, ApplicationBackend
from .bundles import BundleBackend, BundleRoute, Bundles, DigestConverter
from .logs import LogRoute, NodeLogs
from .regions import Regions
from .stacks import StackBackend


class _ApplicationActions(ActionBackend):
    """The actions common to `application` and `app`, dispatched to the backend of the entity's kind."""

    def __init__(self, applications: ApplicationBackend, apps: AppBackend) -> None:
        self._applications = applications
        self._apps = apps

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> Mapping[str, Any]:
        backend = self._apps if entity.kind == deploy.APP else self._applications
        return backend.action(entity, action, attributes, extras)


class DeployModule(Module):
    """Bundles, applications and stacks. The database holds the bundles' archives, `limits` are theirs."""

    name = "deploy"
    open_paths = re.compile(rf"{deploy.APPLICATION.location}[^/]+/logs")

    def __init__(
        self, objects: Objects, regions: Regions, *, database: Database, limits: bundles.ArchiveLimits | None = None
    ) -> None:
        self._database = database
        self._objects = objects
        self._regions = regions
        self._limits = limits or bundles.ArchiveLimits()

    def register(self, application: Application) -> None:
        """Publish kinds, actions and routes."""
        held = Bundles()
        orchestrators = ApplicationBackend(self._objects, held)
        apps = AppBackend(self._objects, held)
        stacks = StackBackend(self._objects, self._regions)
        application.register_backend(deploy.BUNDLE, BundleBackend())
        application.register_backend(deploy.APPLICATION, orchestrators)
        application.register_backend(deploy.ORCHESTRATOR, orchestrators)
        application.register_backend(deploy.APP, apps)
        application.register_backend(deploy.STACK, stacks)
        for action in deploy.APPLICATION_ACTIONS:
            application.register_backend(action, _ApplicationActions(orchestrators, apps))
        for action in deploy.STACK_ACTIONS:
            application.register_backend(action, stacks)
        registry = as_registry(application.registry)
        application.falcon.router_options.converters["digest"] = DigestConverter
        archives = BundleRoute(registry, held, database=self._database, limits=self._limits)
        application.falcon.add_route("/bundle/{digest:digest}", archives)
        nodes = NodeLogs(registry, self._objects, self._regions, database=self._database)
        route = LogRoute(registry, self._regions.applications, nodes=nodes)
        application.falcon.add_route(f"{deploy.APPLICATION.location}{{instance}}/logs", route)
        route = LogRoute(registry, self._regions.applications, location=deploy.APP.location)
        application.falcon.add_route(f"{deploy.APP.location}{{instance}}/logs", route)
