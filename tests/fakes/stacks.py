"""Stacks: what orchestrators make here, and what others make over HTTP. They are complete as soon as they are asked for."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from occi.core_model import Entity, Resource

from archelon_api import deploy
from archelon_api.names import GENERATION, INSTANCE, REGION, SERVICE
from sdk import Instance

from .world import World

__all__ = ["Stack", "begin", "finish", "of_instance", "remove"]

#: What a phase turns a stack into.
_STATES: Final = {
    "deploy": ("CREATE_IN_PROGRESS", "CREATE_COMPLETE"),
    "update": ("UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"),
    "stop": ("SUSPEND_IN_PROGRESS", "SUSPEND_COMPLETE"),
    "start": ("RESUME_IN_PROGRESS", "RESUME_COMPLETE"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a report tells of a stack."""

    name: str
    region: str
    id: str
    state: str
    url: str


def begin(world: World, order: Instance, phase: str) -> None:
    """The phase has begun: its first effect, which a crash leaves behind."""
    if phase == "deploy":
        for name in world.settings.stacks:
            _make(world, order, name)
    _move(world, order, phase, 0)


def finish(world: World, order: Instance, phase: str) -> None:
    """The phase is done."""
    if phase == "destroy":
        remove(world, order.id)
    _move(world, order, phase, 1)


def of_instance(world: World, instance: str) -> list[Stack]:
    """An instance's stacks, by name."""
    found = []
    for key in _keys(world, instance):
        attributes = _entity(world, key).attributes
        found.append(
            Stack(
                name=attributes[deploy.STACK_NAME],
                region=attributes[REGION],
                id=attributes[deploy.STACK_ID],
                state=attributes[deploy.STACK_STATE],
                url=f"{world.base_url}/deploy{key}",
            )
        )
    return sorted(found, key=lambda each: each.name)


def remove(world: World, instance: str) -> list[str]:
    """Delete an instance's stacks. Gives their paths."""
    removed = _keys(world, instance)
    for key in removed:
        world.shelves["deploy"].take_out(key)
        world.journal.effect("stack deleted", instance, path=key)
    return removed


def _make(world: World, order: Instance, name: str) -> None:
    shelf = world.shelves["deploy"]
    path = deploy.stack_path(order.id, name, world.settings.region)
    if shelf.any_tenants(path) is not None:
        world.journal.effect("stack found", order.id, path=path)
        return
    stack = Resource(path, deploy.STACK, [], title=name)
    stack.attributes = {
        INSTANCE: order.id,
        SERVICE: order.service,
        GENERATION: order.generation,
        deploy.STACK_NAME: name,
        REGION: world.settings.region,
        deploy.STACK_FORMAT: "infrastructure",
        deploy.STACK_TEMPLATE: "nodes: {}",
        deploy.STACK_ID: path.rpartition("/")[2],
    }
    shelf.put_for(order.tenant, path, stack)
    world.journal.effect("stack made", order.id, path=path)


def _move(world: World, order: Instance, phase: str, step: int) -> None:
    if phase not in _STATES:
        return
    for key in _keys(world, order.id):
        stack = _entity(world, key)
        stack.attributes[deploy.STACK_STATE] = _STATES[phase][step]
        stack.attributes[GENERATION] = order.generation
        world.shelves["deploy"].write(key, stack)


def _keys(world: World, instance: str) -> list[str]:
    return world.shelves["deploy"].keys_of(deploy.STACK, instance)


def _entity(world: World, key: str) -> Any:
    entity: Entity | None = world.shelves["deploy"].any_tenants(key)
    if entity is None:
        raise LookupError(f"the stack {key} is gone")
    return entity
