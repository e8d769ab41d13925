"""What clients of Hurtle's time are shown on their mount: its words for states, on answers only.

Hurtle's instances came to rest in `provision`, and its clients take an instance for ready by Heat's word in
`occi.mcn.stack.state`. A service without stacks has none, and here it is told at the end of a phase, not while Heat works:
a client that has just asked for an update would take the word of the phase before for its end. So both are said in Hurtle's
way where an answer is written; nothing that is kept differs.
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

#: `provision` is where Hurtle's instances rest. Who waits for it is not to take the phase of that name for its end.
_STATES: Final = {"active": "provision", "provision": "deploy"}
#: Heat's word while the instance is in this state, whatever was told of the last phase.
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
#: The same where nobody has told one: a service without stacks.
_AT_REST: Final = {"active": "CREATE_COMPLETE", "inactive": "SUSPEND_COMPLETE"}


def as_hurtle(entity: EntityDocument) -> EntityDocument:
    """An instance in Hurtle's words; anything else as it is."""
    state = entity.attributes.get(wire.STATE)
    if not isinstance(state, str):
        return entity
    told = str(entity.attributes.get(orchestrator.STACK_STATE) or _AT_REST.get(state, ""))
    if state == "fail" and not told.endswith("_FAILED"):
        told = "CREATE_FAILED"
    shown = {wire.STATE: _STATES.get(state, state), orchestrator.STACK_STATE: _UNDER_WAY.get(state, told)}
    return dataclasses.replace(entity, attributes=entity.attributes | shown)


class _InHurtlesWords(Rendering):
    def write_entity(self, entity: EntityDocument) -> Payload:
        return super().write_entity(as_hurtle(entity))

    def write_collection(self, collection: Collection) -> Payload:
        shown = [as_hurtle(each) for each in collection.entities]
        return super().write_collection(dataclasses.replace(collection, entities=shown))


class _Json(_InHurtlesWords, JsonPyssf):
    pass


class _PlainJson(_InHurtlesWords, PlainJson):
    pass


class _TextPlain(_InHurtlesWords, TextPlain):
    pass


class _TextOcciPlain(_InHurtlesWords, TextOcciPlain):
    pass


class _TextOcci(_InHurtlesWords, TextOcciHurtle):
    pass


def renderings() -> dict[str, Rendering]:
    """The renderings of a mount for Hurtle's clients, by media type. Pages for people are as elsewhere."""
    made: list[Rendering] = [_TextPlain(), _TextOcci(), _Json(), Html(), UriList(), _TextOcciPlain(), _PlainJson()]
    return {each.mime_type: each for each in made}
