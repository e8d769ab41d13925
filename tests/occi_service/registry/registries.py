"""Shared by the registry tests: kinds, tenants, a cipher, and a registry of each type."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from occi.backend import KindBackend, MixinBackend
from occi.core_model import Kind, Link, Mixin, Resource

from archelon_core.database import Database, metadata
from occi_service.attributes import Attribute
from occi_service.registry.base import Registry
from occi_service.registry.sql import SqlRegistry

SCHEME = "http://example.org/test#"

ENGINE = Kind(
    SCHEME,
    "engine",
    [Resource.kind],
    attributes={
        "power": Attribute("mutable", type="number"),
        "colour": Attribute("mutable"),
        "notes": Attribute("mutable"),
        "parts": Attribute("mutable", type="array"),
        "key": Attribute("mutable", secret=True),
    },
    location="/engine/",
)
BELT = Kind(SCHEME, "belt", [Link.kind], attributes={"length": Attribute("mutable", type="number")}, location="/belt/")
TURBO = Mixin(SCHEME, "turbo", attributes={"boost": Attribute("mutable", type="number")}, location="/turbo/")


@dataclasses.dataclass(frozen=True)
class Tenant:
    tenant_id: str


def extras_of(tenant: str | None) -> dict[str, Any]:
    return {} if tenant is None else {"identity": Tenant(tenant)}


class TestCipher:
    """AES-GCM bound to a context, with key rotation, as the registry requires."""

    __test__ = False

    def __init__(self, *keys: bytes) -> None:
        self.keys = keys or (b"k" * 32,)
        self.opened: list[Sequence[str]] = []
        self._nonce = 0

    def encrypt(self, text: str, *, context: Sequence[str]) -> str:
        self._nonce += 1
        nonce = self._nonce.to_bytes(12)
        sealed = AESGCM(self.keys[0]).encrypt(nonce, text.encode(), repr(tuple(context)).encode())
        return f"{self.keys[0][:1].decode()}.{(nonce + sealed).hex()}"

    def decrypt(self, token: str, *, context: Sequence[str]) -> str:
        self.opened.append(tuple(context))
        name, _, body = token.partition(".")
        key = next(each for each in self.keys if each[:1].decode() == name)
        raw = bytes.fromhex(body)
        return AESGCM(key).decrypt(raw[:12], raw[12:], repr(tuple(context)).encode()).decode()

    def is_current(self, token: str) -> bool:
        return token.startswith(self.keys[0][:1].decode() + ".")


def with_categories(registry: Registry) -> Registry:
    registry.set_backend(ENGINE, KindBackend(), None)
    registry.set_backend(BELT, KindBackend(), None)
    registry.set_backend(TURBO, MixinBackend(), None)
    return registry


def sql_registry(url: str, cipher: TestCipher | None = None) -> tuple[SqlRegistry, Database]:
    database = Database(url)
    metadata.create_all(database.engine)
    registry = SqlRegistry(database, cipher or TestCipher())
    with_categories(registry)
    return registry, database


def engine(identifier: str, **attributes: Any) -> Resource:
    made = Resource(identifier, ENGINE, [])
    made.attributes = attributes
    return made
