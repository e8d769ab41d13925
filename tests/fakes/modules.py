"""The cloud controller's modules: the wire's own kinds, served by OCCI's own protocol code, over the `World`.

Design keeps the catalogue and delegations, deploy applications and stacks, disposal takes down. Bundles, which are no OCCI
documents, are in `bundles`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

from occi.backend import ActionBackend, KindBackend, MixinBackend
from occi.core_model import Action, Entity, Resource

from archelon_api import deploy, design, disposal
from archelon_api.names import GENERATION, INSTANCE, REGION, SERVICE
from archelon_core.auth import IDENTITY
from occi_service.model import type_id
from occi_service.server.app import Application
from occi_service.server.request import Limits

from . import stacks
from .bundles import Bundles, Digest
from .containers import Container, Order, environment_of
from .shelf import Shelf
from .world import World, check_generation, check_stays, refuse

__all__ = ["MODULES", "ModuleApplication", "deploy_module", "design_module", "disposal_module"]

#: Modules by name; each is mounted at `/<name>`.
MODULES: Final = {"design": design.SCHEME, "deploy": deploy.SCHEME, "disposal": disposal.SCHEME}
#: A stack carries templates and files.
_BODY: Final = 8 << 20


class ModuleApplication(Application):
    """Hands the caller's identity to the backends."""

    def __call__(self, environ: WSGIEnvironment, response: StartResponse) -> Iterable[bytes]:
        return self._call_occi(environ, response, identity=environ.get(IDENTITY))


def _application(world: World, name: str, shelf: Shelf) -> ModuleApplication:
    world.shelves[name] = shelf
    return ModuleApplication(shelf, limits=Limits(body=_BODY, page=10_000))


def _instance_in(entity: Entity) -> str:
    """The instance that a path names by its last part."""
    return entity.identifier.rpartition("/")[2]


def _refuse_disposed(world: World, instance: str) -> None:
    """What a paused worker asks for after the end would stay for ever."""
    if instance in world.disposed:
        raise refuse(409, f"the instance {instance} was disposed of and does not come back")


# --- design ----------------------------------------------------------------------------------------------------------


def design_module(world: World) -> ModuleApplication:
    """The catalogue, which lists the modules themselves, and delegations."""
    shelf = Shelf(world, shared=(design.SERVICE,))
    application = _application(world, "design", shelf)
    application.register_backend(design.SERVICE, _Catalogue())
    application.register_backend(design.DELEGATION, _Delegations(world))
    for action in design.DELEGATION.actions:
        application.register_backend(action, _Refused())
    for name, scheme in MODULES.items():
        path = design.service_path(scheme, world.settings.region)
        entry = Resource(path, design.SERVICE, [], title=name)
        entry.attributes = {
            design.SERVICE_TYPE: scheme,
            design.ENDPOINT: f"{world.base_url}/{name}",
            design.SERVICE_REGION: world.settings.region,
            design.INTERFACE: "public",
            design.ORIGIN: design.INSTALLATION,
        }
        shelf.add_resource(path, entry, None)
    return application


class _Catalogue(KindBackend):
    def create(self, entity: Entity, extras: Any) -> None:
        caller = extras["identity"]
        entity.attributes |= {design.ISSUER: caller.issuer, design.PUBLISHER: caller.tenant_id}

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        self.create(new, extras)
        old.attributes = new.attributes

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        self.create(new, extras)
        old.attributes |= new.attributes


class _Delegations(KindBackend):
    def __init__(self, world: World) -> None:
        self._world = world

    def create(self, entity: Entity, extras: Any) -> None:
        instance = _instance_in(entity)
        _refuse_disposed(self._world, instance)
        if not self._world.ask.subject_token:
            raise refuse(400, f"a delegation is made with the tenant's token, in {design.SUBJECT_TOKEN_HEADER}")
        entity.attributes[design.DELEGATION_STATE] = "active"
        self._world.journal.effect("delegation made", instance)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        check_stays(old.attributes, new.attributes, (design.DELEGATION_PARENT,))

    def delete(self, entity: Entity, extras: Any) -> None:
        self._world.journal.effect("delegation deleted", _instance_in(entity))


class _Refused(ActionBackend):
    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        raise refuse(501, f"the stand-in has no {action.term}")


# --- deploy ----------------------------------------------------------------------------------------------------------


def deploy_module(world: World) -> ModuleApplication:
    """Applications, stacks, and bundles by digest."""
    shelf = Shelf(world, shared=(deploy.BUNDLE,))
    application = _application(world, "deploy", shelf)
    bundles = Bundles(world)
    application.register_backend(deploy.BUNDLE, _Archives())
    application.falcon.router_options.converters["digest"] = Digest
    application.falcon.add_route("/bundle/{digest:digest}", bundles)
    backend = _Applications(world, bundles)
    application.register_backend(deploy.APPLICATION, backend)
    application.register_backend(deploy.ORCHESTRATOR, MixinBackend())
    stack_backend = _Stacks(world)
    application.register_backend(deploy.STACK, stack_backend)
    for action in deploy.APPLICATION_ACTIONS:
        application.register_backend(action, backend)
    for action in deploy.STACK_ACTIONS:
        application.register_backend(action, stack_backend)
    return application


class _Archives(KindBackend):
    def create(self, entity: Entity, extras: Any) -> None:
        raise refuse(400, f"a bundle is made by a PUT of its archive at {deploy.bundle_path('<sha256>')}")


class _Applications(KindBackend, ActionBackend):
    """`application` with the mixin `orchestrator`."""

    def __init__(self, world: World, bundles: Bundles) -> None:
        self._world = world
        self._bundles = bundles

    def create(self, entity: Entity, extras: Any) -> None:
        order = self._order(entity, entity.attributes, extras)
        _refuse_disposed(self._world, order.instance)
        if order.instance in self._world.containers:
            raise refuse(409, "the path is taken")
        container = Container(self._world, order)
        self._world.containers[order.instance] = container
        self._world.journal.effect(
            "application created", order.instance, generation=order.generation, runs=order.runs, tenant=order.tenant
        )
        container.start(self._world.ask.fault("never_start", "error"))
        self.retrieve(entity, extras)

    def retrieve(self, entity: Entity, extras: Any) -> None:
        container = self._world.containers[_instance_in(entity)]
        entity.attributes[deploy.APP_STATE] = container.state
        entity.attributes[deploy.APP_STATE_MESSAGE] = container.message
        entity.attributes[deploy.APP_URL] = container.url if container.state == "active" else None
        entity.actions = [deploy.START] if container.state != "active" else [deploy.STOP, deploy.RESTART]

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        before, now = old.attributes, new.attributes
        check_generation(before, now)
        check_stays(before, now, (SERVICE,))
        order = self._order(old, now, extras)
        if before.get(GENERATION) == now.get(GENERATION):
            # What runs changes with the order alone: a repeated PUT that says otherwise is some other's.
            check_stays(before, now, (deploy.BUNDLE_DIGEST, deploy.BUNDLE_IMAGE))
        old.attributes = now
        self._world.containers[order.instance].change(order)
        self.retrieve(old, extras)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        raise refuse(400, "an application is changed whole, by PUT")

    def delete(self, entity: Entity, extras: Any) -> None:
        container = self._world.containers.pop(_instance_in(entity))
        container.stop("deleted")
        self._world.journal.effect("application deleted", container.order.instance)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        container = self._world.containers[_instance_in(entity)]
        if action in (deploy.STOP, deploy.RESTART):
            container.stop()
        if action == deploy.RESTART or (action == deploy.START and container.state != "active"):
            container.start()
        self.retrieve(entity, extras)

    def _order(self, entity: Entity, attributes: dict[str, Any], extras: Any) -> Order:
        instance = _instance_in(entity)
        if INSTANCE not in attributes:
            raise refuse(400, f"the stand-in runs orchestrators alone: name the mixin {type_id(deploy.ORCHESTRATOR)}")
        if attributes[INSTANCE] != instance:
            raise refuse(409, f"{INSTANCE} is {attributes[INSTANCE]!r}, and the path names {instance!r}")
        digest, image = attributes.get(deploy.BUNDLE_DIGEST), attributes.get(deploy.BUNDLE_IMAGE)
        if bool(digest) == bool(image):
            raise refuse(400, f"one of {deploy.BUNDLE_DIGEST} and {deploy.BUNDLE_IMAGE} is needed")
        if digest and not self._bundles.has(digest):
            raise refuse(409, f"there is no bundle {digest}; PUT it at {deploy.bundle_path(digest)} first")
        try:
            environment = environment_of(instance, attributes.get(deploy.APPLICATION_ENV) or {})
        except ValueError as error:
            raise refuse(400, f"{deploy.APPLICATION_ENV}: {error}") from None
        return Order(
            instance=instance,
            tenant=extras["identity"].tenant_id,
            generation=attributes.get(GENERATION, 0),
            runs=digest or image or "",
            environment=environment,
        )


class _Stacks(KindBackend, ActionBackend):
    """Complete as soon as they are asked for."""

    def __init__(self, world: World) -> None:
        self._world = world

    def create(self, entity: Entity, extras: Any) -> None:
        _refuse_disposed(self._world, entity.attributes[INSTANCE])
        entity.attributes[deploy.STACK_ID] = _instance_in(entity)
        entity.attributes[deploy.STACK_STATE] = "CREATE_COMPLETE"
        self._world.journal.effect("stack made", entity.attributes[INSTANCE], path=entity.identifier)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        check_generation(old.attributes, new.attributes)
        check_stays(old.attributes, new.attributes, (SERVICE, REGION, deploy.STACK_NAME, deploy.STACK_FORMAT))
        if new.attributes != old.attributes:
            old.attributes = {**new.attributes, deploy.STACK_STATE: "UPDATE_COMPLETE"}
            self._world.journal.effect("stack updated", old.attributes[INSTANCE], path=old.identifier)

    def delete(self, entity: Entity, extras: Any) -> None:
        self._world.journal.effect("stack deleted", entity.attributes[INSTANCE], path=entity.identifier)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        states = {deploy.SUSPEND: "SUSPEND_COMPLETE", deploy.RESUME: "RESUME_COMPLETE", deploy.SCALE: "UPDATE_COMPLETE"}
        if action not in states:
            raise refuse(501, f"the stand-in has no {action.term}")
        entity.attributes[deploy.STACK_STATE] = states[action]
        self._world.journal.effect(f"stack {action.term}", entity.attributes[INSTANCE], path=entity.identifier)


# --- disposal --------------------------------------------------------------------------------------------------------


def disposal_module(world: World) -> ModuleApplication:
    """Takes down what carries an instance's label: stacks, the application, and the delegation last."""
    application = _application(world, "disposal", Shelf(world))
    application.register_backend(disposal.DISPOSAL, _Disposals(world))
    return application


class _Disposals(KindBackend):
    def __init__(self, world: World) -> None:
        self._world = world

    def create(self, entity: Entity, extras: Any) -> None:
        if entity.attributes[INSTANCE] != _instance_in(entity):
            raise refuse(409, f"{INSTANCE} is not the one that the path names")
        self._begin(entity, extras)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        check_generation(old.attributes, new.attributes)
        check_stays(old.attributes, new.attributes, (SERVICE,))
        old.attributes = new.attributes
        if old.attributes[disposal.DISPOSAL_STATE] == "failed":
            # Asked for again, it tries again.
            self._begin(old, extras)

    def _begin(self, entity: Entity, extras: Any) -> None:
        ask = self._world.ask
        entity.attributes[disposal.DISPOSAL_STATE] = "running"
        entity.attributes.pop(disposal.DISPOSAL_MESSAGE, None)
        instance = entity.attributes[INSTANCE]
        self._world.journal.effect("disposal begun", instance, generation=entity.attributes.get(GENERATION))
        fault = ask.fault("fail")
        if ask.fault("hang") is None:
            begun, key = time.monotonic(), entity.identifier
            self._world.after(
                self._world.settings.disposal_delay,
                lambda: self._end(key, begun, None if fault is None else fault.message or "a fault was asked for"),
            )

    def _end(self, key: str, begun: float, message: str | None) -> None:
        world = self._world
        with world.lock:
            entity = world.shelves["disposal"].any_tenants(key)
            if entity is None:
                return
            instance = entity.attributes[INSTANCE]
            if message is None:
                removed = self._remove(instance)
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                audit = entity.attributes.get(disposal.DISPOSAL_AUDIT) or []
                entity.attributes[disposal.DISPOSAL_AUDIT] = audit + [
                    {"object": each, "platform": "stand-in", "removed": now, "absence verified": now}
                    for each in removed
                ]
                entity.attributes[disposal.DISPOSAL_STATE] = "done"
                world.disposed.add(instance)
                world.journal.effect("disposal done", instance, removed=removed, seconds=time.monotonic() - begun)
            else:
                entity.attributes[disposal.DISPOSAL_STATE] = "failed"
                entity.attributes[disposal.DISPOSAL_MESSAGE] = message
                world.journal.effect("disposal failed", instance, message=message)
            world.shelves["disposal"].write(key, entity)

    def _remove(self, instance: str) -> list[str]:
        world = self._world
        removed = stacks.remove(world, instance)
        container = world.containers.pop(instance, None)
        if container is not None:
            container.stop("disposed of")
            path = deploy.application_path(instance)
            world.shelves["deploy"].take_out(path)
            world.journal.effect("application deleted", instance)
            removed.append(path)
        path = design.delegation_path(instance)
        if world.shelves["design"].any_tenants(path) is not None:
            world.shelves["design"].take_out(path)
            world.journal.effect("delegation deleted", instance)
            removed.append(path)
        return removed
