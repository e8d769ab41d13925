"""Renderings written for pyssf, served as they are.

pyssf's contract mixes syntax and lookup: `to_entity(headers, body, def_kind, extras)` returns the entity itself,
`from_entity` header fields and text. The adapter hands such a rendering what pyssf's handlers did, header names in
pyssf's spelling included, and takes what it returns past the documents that our own renderings go through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import occi.protocol.rendering
from occi.core_model import Action, Category, Entity, Kind, Mixin

from .renderings import Message, Payload, Rendering
from .renderings.text import FIELDS, to_header
from .workflow import refusals

if TYPE_CHECKING:
    from .exchange import Exchange

__all__ = ["ForeignRendering"]


class ForeignRendering(Rendering):
    """A pyssf rendering behind our interface. Raises what the wrapped one refuses with, as errors a client sees."""

    def __init__(self, wrapped: occi.protocol.rendering.Rendering, mime_type: str) -> None:
        super().__init__(wrapped.registry)
        self.wrapped = wrapped
        self.mime_type = mime_type
        self.content_type = mime_type

    def read_pyssf_entity(self, message: Message, kind: Kind | None, exchange: Exchange) -> Entity:
        """The entity of a request, resolved; `kind` where the request may leave it out."""
        entity: Entity = self._call(exchange, self.wrapped.to_entity, message, kind)
        return entity

    def read_pyssf_entities(self, message: Message, exchange: Exchange) -> list[Entity]:
        """The entities that a request names."""
        entities: list[Entity] = self._call(exchange, self.wrapped.to_entities, message)
        return entities

    def read_pyssf_action(self, message: Message, exchange: Exchange) -> tuple[Action, dict[str, Any]]:
        """The action that a request invokes, and its attributes."""
        action: tuple[Action, dict[str, Any]] = self._call(exchange, self.wrapped.to_action, message)
        return action

    def read_pyssf_mixins(self, message: Message, exchange: Exchange) -> list[Mixin]:
        """The mixins that a request defines."""
        mixins: list[Mixin] = self._call(exchange, self.wrapped.to_mixins, message)
        return mixins

    def write_pyssf_entity(self, entity: Entity, exchange: Exchange) -> Payload:
        """An entity as the wrapped rendering shows it."""
        with refusals():
            exchange.registry.set_hostname(exchange.base)
            return _payload(*self.wrapped.from_entity(entity))

    def write_pyssf_entities(self, entities: list[Entity], exchange: Exchange) -> Payload:
        """A collection as the wrapped rendering shows it."""
        with refusals():
            exchange.registry.set_hostname(exchange.base)
            return _payload(*self.wrapped.from_entities(entities, exchange.request.path))

    def write_pyssf_categories(self, categories: list[Category], exchange: Exchange) -> Payload:
        """Categories as the wrapped rendering shows them."""
        with refusals():
            exchange.registry.set_hostname(exchange.base)
            return _payload(*self.wrapped.from_categories(categories))

    def _call(self, exchange: Exchange, read: Callable[..., Any], message: Message, *arguments: Any) -> Any:
        with refusals():
            exchange.registry.set_hostname(exchange.base)
            return read(_headers(message, exchange), _text(message), *arguments, exchange.extras)


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
    return Payload(body.encode(), tuple(fields))
