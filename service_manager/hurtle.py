"""What clients of Hurtle's time are shown on their mount: its words for states, on answers only.

Hurtle's instances came to rest in `provision`, and its clients take an instance for ready by Heat's word in
`occi.mcn.stack.state`, which a service without stacks does not have and which here is told once a phase, not while Heat
works. So both are said in Hurtle's way where an answer is written; nothing that is kept differs.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from occi_service.html import Html
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
from occi_service.wire import orchestrator
from occi_service.wire import service_manager as wire

__all__ = ["as_hurtle", "renderings"]

_RESTING: Final = "provision"
#: What Heat would say of a stack while the instance is in this state, where nobody has told.
_UNTOLD: Final = {
    "active": "CREATE_COMPLETE",
    "inactive": "SUSPEND_COMPLETE",
    "stop": "SUSPEND_IN_PROGRESS",
    "start": "RESUME_IN_PROGRESS",
    "destroy": "DELETE_IN_PROGRESS",
    "fail": "CREATE_FAILED",
}


def as_hurtle(entity: EntityDocument) -> EntityDocument:
    """An instance in Hurtle's words; anything else as it is."""
    state = entity.attributes.get(wire.STATE)
    if state is None:
        return entity
    shown = dict(entity.attributes)
    if state == "active":
        shown[wire.STATE] = _RESTING
    if state == "update":
        # Who has asked for an update polls for its end: what the last phase ended with would be taken for it.
        shown[orchestrator.STACK_STATE] = "UPDATE_IN_PROGRESS"
    else:
        shown.setdefault(orchestrator.STACK_STATE, _UNTOLD.get(str(state), "CREATE_IN_PROGRESS"))
    return dataclasses.replace(entity, attributes=shown)


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
