from typing import Any

class Category:
    scheme: str
    term: str
    title: str
    attributes: dict[str, str]
    location: str | None
    extras: Any
    def __init__(
        self, scheme: str, term: str, title: str, attributes: dict[str, str], location: str | None
    ) -> None: ...

class Kind(Category):
    location: str
    related: list[Category]
    actions: list[Action]
    def __init__(
        self,
        scheme: str,
        term: str,
        related: list[Category] | None = ...,
        actions: list[Action] | None = ...,
        title: str = ...,
        attributes: dict[str, str] | None = ...,
        location: str | None = ...,
    ) -> None: ...

class Action(Category):
    def __init__(self, scheme: str, term: str, title: str = ..., attributes: dict[str, str] | None = ...) -> None: ...

class Mixin(Category):
    location: str
    related: list[Category]
    actions: list[Action]
    def __init__(
        self,
        scheme: str,
        term: str,
        related: list[Category] | None = ...,
        actions: list[Action] | None = ...,
        title: str = ...,
        attributes: dict[str, str] | None = ...,
        location: str | None = ...,
    ) -> None: ...

class Entity:
    identifier: str
    title: str | None
    kind: Kind
    mixins: list[Mixin]
    attributes: dict[str, Any]
    actions: list[Action]
    extras: Any
    def __init__(self, identifier: str | None, title: str | None, kind: Kind, mixins: list[Mixin]) -> None: ...

class Resource(Entity):
    links: list[Link]
    summary: str | None
    def __init__(
        self,
        identifier: str | None,
        kind: Kind,
        mixins: list[Mixin],
        links: list[Link] | None = ...,
        summary: str | None = ...,
        title: str | None = ...,
    ) -> None: ...

class Link(Entity):
    source: Resource
    target: Resource
    def __init__(
        self,
        identifier: str | None,
        kind: Kind,
        mixins: list[Mixin],
        source: Resource,
        target: Resource,
        title: str | None = ...,
    ) -> None: ...
