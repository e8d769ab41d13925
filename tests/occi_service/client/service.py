"""The service that the client's tests use: pyssf's infrastructure kinds and a kind with every type of attribute.

Run by gunicorn (`tests.occi_service.client.service:application`), as in production.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import falcon
from occi.backend import ActionBackend, KindBackend, MixinBackend
from occi.core_model import Action, Entity, Kind, Mixin, Resource
from occi.extensions import infrastructure

import occi_service

SCHEME = "http://example.org/occi/test#"
COLOUR = Action("http://example.org/occi/test/action#", "colour", "Paint it", {"colour": "required"})
THING = Kind(
    SCHEME,
    "thing",
    [Resource.kind],
    [COLOUR],
    "A thing",
    {
        "test.string": occi_service.Attribute("mutable"),
        "test.number": occi_service.Attribute("mutable", type="number"),
        "test.boolean": occi_service.Attribute("mutable", type="boolean"),
        "test.array": occi_service.Attribute("mutable", type="array"),
        "test.object": occi_service.Attribute("mutable", type="object"),
        "test.state": occi_service.Attribute("immutable"),
    },
    "/thing/",
)
TAGGED = Mixin(SCHEME, "tagged", attributes={"test.tag": "mutable"}, location="/tagged/")


class Kinds(KindBackend, ActionBackend):
    """Stores the attributes, which pyssf's contract leaves to the backend."""

    def create(self, entity: Entity, extras: object) -> None:
        if entity.kind == THING:
            entity.attributes["test.state"] = "new"
            entity.actions = [COLOUR]

    def update(self, old: Entity, new: Entity, extras: object) -> None:
        old.attributes.update(new.attributes)

    def replace(self, old: Entity, new: Entity, extras: object) -> None:
        old.attributes = dict(new.attributes)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: object) -> None:
        entity.attributes["test.state"] = attributes["colour"]


class Mixins(MixinBackend):
    """A mixin without attributes."""


class Logs:
    """Text in pieces, like an application's log; one character is split."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        def pieces() -> Iterator[bytes]:
            yield b"one\n"
            yield "tw\N{LATIN SMALL LETTER O WITH DIAERESIS}".encode()[:-1]
            yield "\N{LATIN SMALL LETTER O WITH DIAERESIS}\n".encode()[1:]
            yield f"since {req.get_param('since')}\n".encode()

        resp.content_type = "text/plain; charset=utf-8"
        resp.stream = pieces()


class Bundles:
    """Bytes by name."""

    def __init__(self) -> None:
        self._stored: dict[str, tuple[bytes, str]] = {}

    def on_put(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        resp.status = falcon.HTTP_200 if name in self._stored else falcon.HTTP_201
        self._stored[name] = (req.stream.read(), req.content_type or "")

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        resp.data, resp.content_type = self._stored[name]


def make() -> occi_service.Application:
    """Return a new service."""
    made = occi_service.Application()
    backend = Kinds()
    kinds = (infrastructure.COMPUTE, infrastructure.NETWORK, infrastructure.NETWORKINTERFACE, THING)
    for category in (*kinds, COLOUR):
        made.register_backend(category, backend)
    made.register_backend(TAGGED, Mixins())
    made.falcon.add_route("/log", Logs())
    made.falcon.add_route("/bundle/{name}", Bundles())
    return made


class Mounted:
    """A service mounted below a path, as by a reverse proxy or a dispatcher."""

    def __init__(self, application: occi_service.Application, prefix: str) -> None:
        self._application = application
        self._prefix = prefix

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path.startswith(self._prefix + "/"):
            environ["SCRIPT_NAME"] = self._prefix
            environ["PATH_INFO"] = path[len(self._prefix) :]
        return self._application(environ, start_response)


application = Mounted(make(), "/mounted/here")
