"""A service with all that OCCI 1.2 adds to pyssf: types, defaults, patterns, secrets, parents, tenants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from occi.backend import ActionBackend, KindBackend, MixinBackend
from occi.core_model import Action, Entity, Kind, Link, Mixin, Resource

import occi_service
from occi_service import Attribute

SCHEME = "http://example.org/shop#"

OPEN = Action(
    SCHEME, "open", "Open it", {"key": Attribute("required"), "force": Attribute(type="boolean", default=False)}
)
CLOSE = Action(SCHEME, "close", "Close it")
THING = Kind(
    SCHEME,
    "thing",
    [Resource.kind],
    [CLOSE],
    "Thing",
    {"shop.colour": Attribute("mutable", default="grey"), "shop.serial": Attribute("immutable")},
    "/thing/",
)
BOX = Kind(
    SCHEME,
    "box",
    [THING],
    [OPEN],
    "Box, with lid",
    {
        "shop.name": Attribute("required", pattern="[a-z][a-z0-9-]{0,30}", description="a short name"),
        "shop.count": Attribute("mutable", type="number", default=1),
        "shop.fragile": Attribute("mutable", type="boolean"),
        "shop.tags": Attribute("mutable", type="array", pattern={"type": "array", "items": {"type": "string"}}),
        "shop.labels": Attribute("mutable", type="object"),
        "shop.note": Attribute("mutable"),
        "shop.slow": Attribute("mutable", pattern="(a+)+b"),
        "shop.pin": Attribute("mutable", pattern="[0-9]{4}", secret=True),
    },
    "/box/",
)
ROPE = Kind(SCHEME, "rope", [Link.kind], [], "Rope", {"shop.length": Attribute("mutable", type="number")}, "/rope/")
LABEL = Mixin(SCHEME, "label", [BOX], [], "Label", {"shop.text": Attribute("mutable", default="none")}, "/label/")

BOX_TYPE, ROPE_TYPE, LABEL_TYPE, OPEN_TYPE = (SCHEME + each for each in ("box", "rope", "label", "open"))
BOX_TEXT = f'Category: box; scheme="{SCHEME}"; class="kind"\n'
THING_TEXT = BOX_TEXT.replace("box", "thing")


@dataclasses.dataclass(frozen=True)
class Identity:
    """Stands in for the identity that the authentication middleware provides."""

    tenant_id: str


class Keeper(KindBackend, ActionBackend):
    """Stores the attributes that it receives."""

    def create(self, entity: Entity, extras: Any) -> None:
        entity.attributes["shop.serial"] = "S-1"
        entity.actions = [OPEN, CLOSE]

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        old.attributes.update(new.attributes)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        old.attributes = new.attributes

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        entity.attributes["shop.note"] = f"{action.term} {attributes.get('key', '')}".strip()


class Tie(KindBackend):
    """Backend of ropes."""

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        old.attributes.update(new.attributes)


class Sticker(MixinBackend):
    """Backend of labels."""

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        old.attributes.update(new.attributes)


class Shop(occi_service.Application):
    """The tenant is named by `X-Tenant`; without it there is no tenant."""

    def __init__(self, registry: Any = None, **settings: Any) -> None:
        super().__init__(registry, **settings)
        for category, backend in (
            (THING, Keeper()),
            (BOX, Keeper()),
            (ROPE, Tie()),
            (LABEL, Sticker()),
            (OPEN, Keeper()),
            (CLOSE, Keeper()),
        ):
            self.register_backend(category, backend)

    def __call__(self, environ: dict[str, Any], response: Any) -> Iterable[bytes]:
        tenant = environ.get("HTTP_X_TENANT")
        extras = {"identity": Identity(tenant)} if tenant is not None else {}
        return self._call_occi(environ, response, **extras)
