"""Renderings for Hurtle's clients: they translate an instance's states in responses.

Hurtle's instances come to rest in `provision`, and its clients consider an instance ready by the Heat state in
`occi.mcn.stack.state`. A service without stacks has none, and Archelon's orchestrators report it at the end of a phase: a client
that has just requested an update would take the state of the previous phase for the result. Both are therefore translated when
a response is written; nothing that is stored differs.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from archelon_api import orchestrator
from archelon_api import service_manager as wire
from occi_service.renderings import (
    Collection,
    EntityDocument,
    JsonPyssf,
    Payload,
    PlainJson,
    Rendering,
    TextOcciHurtle,
    TextOcciPlain,
    TextPlain,
    UriList,
)
from occi_service.renderings.html import Html

#: Hurtle's instances rest in `provision`, so clients that wait for it must not see the phase of that name.
_STATES: Final = {"active": "provision", "provision": "deploy"}
#: The stack state while the instance is in this state, whatever the previous phase reported.
_UNDER_WAY: Final = {
    "initialise": "CREATE_IN_PROGRESS",
    "activate": "CREATE_IN_PROGRESS",
    "deploy": "CREATE_IN_PROGRESS",
    "provision": "CREATE_IN_PROGRESS",
    "update": "UPDATE_IN_PROGRESS",
    "stop": "SUSPEND_IN_PROGRESS",
    "start": "RESUME_IN_PROGRESS",
    "destroy": "DELETE_IN_PROGRESS",
}
#: The stack state if none was reported, as by a service without stacks.
_AT_REST: Final = {"active": "CREATE_COMPLETE", "inactive": "SUSPEND_COMPLETE"}


def as_hurtle(entity: EntityDocument) -> EntityDocument:
    """Translate an instance to Hurtle's states; return any other entity unchanged."""
    state = entity.attributes.get(wire.STATE)
    if not isinstance(state, str):
        return entity
    stack_state = str(entity.attributes.get(orchestrator.STACK_STATE) or _AT_REST.get(state, ""))
    if state == "fail" and not stack_state.endswith("_FAILED"):
        stack_state = "CREATE_FAILED"
    shown = {wire.STATE: _STATES.get(state, state), orchestrator.STACK_STATE: _UNDER_WAY.get(state, stack_state)}
    return dataclasses.replace(entity, attributes=entity.attributes | shown)


class _HurtleStates(Rendering):
    def translated(self, entity: EntityDocument) -> EntityDocument:
        return as_hurtle(entity)

    def write_entity(self, entity: EntityDocument) -> Payload:
        return super().write_entity(as_hurtle(entity))

    def write_collection(self, collection: Collection) -> Payload:
        shown = [as_hurtle(each) for each in collection.entities]
        return super().write_collection(dataclasses.replace(collection, entities=shown))


def _translated(base: type[Rendering]) -> Rendering:
    rendering: type[Rendering] = type(f"Hurtle{base.__name__}", (_HurtleStates, base), {})
    return rendering()


def renderings() -> dict[str, Rendering]:
    """Return the renderings of a mount for Hurtle's clients, by media type; HTML is not translated."""
    first = [_translated(each) for each in (TextPlain, TextOcciHurtle, JsonPyssf)]
    last = [_translated(each) for each in (TextOcciPlain, PlainJson)]
    return {each.mime_type: each for each in (*first, Html(), UriList(), *last)}
