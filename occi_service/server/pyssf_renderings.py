"""Adapter for renderings written for pyssf.

pyssf's contract mixes syntax and lookup: `to_entity(headers, body, def_kind, extras)` returns the entity itself, `from_entity`
header fields and text. The adapter passes such a rendering what pyssf's handlers passed, including header names in pyssf's
spelling, and bypasses the documents that native renderings use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import occi.protocol.rendering
from occi.core_model import Action, Category, Entity, Kind, Mixin

from archelon_core.errors import BadRequestError, NotAcceptableError

from ..renderings import Message, Payload, Rendering
from ..renderings.text import FIELDS, to_header
from .backends import refusals

if TYPE_CHECKING:
    from .request import Exchange

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class ForeignRendering(Rendering):
    """A pyssf rendering behind the native interface. Refusals of the wrapped rendering are raised as HTTP errors."""

    def __init__(self, wrapped: occi.protocol.rendering.Rendering, mime_type: str) -> None:
        super().__init__(wrapped.registry)
        self.wrapped = wrapped
        self.mime_type = mime_type
        self.content_type = mime_type

    def read_pyssf_entity(self, message: Message, kind: Kind | None, exchange: Exchange) -> Entity:
        """Return the entity of a request, resolved; `kind` is the default if the request names none."""
        return cast("Entity", self._call(exchange, self.wrapped.to_entity, message, kind))

    def read_pyssf_entities(self, message: Message, exchange: Exchange) -> list[Entity]:
        """Return the entities that a request names."""
        return cast("list[Entity]", self._call(exchange, self.wrapped.to_entities, message))

    def read_pyssf_action(self, message: Message, exchange: Exchange) -> tuple[Action, dict[str, Any]]:
        """Return the action that a request invokes, and its attributes."""
        return cast("tuple[Action, dict[str, Any]]", self._call(exchange, self.wrapped.to_action, message))

    def read_pyssf_mixins(self, message: Message, exchange: Exchange) -> list[Mixin]:
        """Return the mixins that a request defines."""
        return cast("list[Mixin]", self._call(exchange, self.wrapped.to_mixins, message))

    def read_pyssf_categories(self, message: Message, exchange: Exchange) -> list[Category]:
        """Return the categories that a request names (pyssf reads the mixins to remove as filters)."""
        return cast("list[Category]", self._call(exchange, self.wrapped.get_filters, message)[0])

    def write_pyssf_entity(self, entity: Entity, exchange: Exchange) -> Payload:
        """Render an entity."""
        with refusals():
            exchange.registry.set_hostname(exchange.base)
            return _payload(*self.wrapped.from_entity(entity))

    def write_pyssf_entities(self, entities: list[Entity], exchange: Exchange) -> Payload:
        """Render a collection."""
        with refusals():
            exchange.registry.set_hostname(exchange.base)
            return _payload(*self.wrapped.from_entities(entities, exchange.request.path))

    def write_pyssf_categories(self, categories: list[Category], exchange: Exchange) -> Payload:
        """Render categories."""
        with refusals():
            exchange.registry.set_hostname(exchange.base)
            return _payload(*self.wrapped.from_categories(categories))

    def _call(self, exchange: Exchange, read: Callable[..., Any], message: Message, *arguments: Any) -> Any:
        headers, text = _headers(message, exchange), _text(message)
        with refusals():
            exchange.registry.set_hostname(exchange.base)
            try:
                return read(headers, text, *arguments, exchange.extras)
            except (LookupError, TypeError, ValueError) as error:
                # pyssf's parsers raise these on malformed input, such as a missing quote or an empty field.
                raise BadRequestError(f"{self.mime_type} does not parse: {error}", "body") from error


def _headers(message: Message, exchange: Exchange) -> dict[str, str]:
    headers = {FIELDS[lower]: value for lower, value in message.headers.items()}
    environ = exchange.request.env
    for name, key in (("Accept", "HTTP_ACCEPT"), ("Content-Type", "CONTENT_TYPE"), ("Query_String", "QUERY_STRING")):
        if key in environ:
            headers[name] = environ[key]
    return headers


def _text(message: Message) -> str:
    return message.body.decode("utf-8", "replace")


def _payload(headers: dict[str, str], body: str) -> Payload:
    fields = [(name, to_header(str(value))) for name, value in headers.items() if name.lower() != "content-type"]
    for name, value in fields:
        if _CONTROL.search(value) is not None:
            # pyssf's renderings escape nothing, and a line break would start another field.
            raise NotAcceptableError(f"the field {name} would hold a control character", "header Accept")
    return Payload(body.encode(), tuple(fields))
