"""The local realm's document: parsed strictly, with the line of every error, and serialized whole.

    version: 1
    tenants:
      - {id: 0b1c…, name: demo}
    users:
      - name: alice
        roles: {demo: [tenant, provider]}
    tokens:
      - {id: 5f0a…, user: alice, tenant: demo, sha256: 9c56…, expires: 2027-01-31T00:00:00+00:00}

A person may edit it by hand; the command line edits it through `RealmFile`, which drops comments. There are no passwords: a
token is 256 random bits, whose SHA-256 needs neither salt nor stretching. A token's permissions follow from the *present* roles
of its user in its tenant, so revoking a role takes effect without touching tokens.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from ..documents import tree
from ..documents.problems import DocumentError
from ..documents.reading import only_document, read_text
from ..documents.tree import DocumentLimits, Entry, Node
from .subject import Role, TenantId

#: Limits of a realm file: some ten thousand tokens. Larger deployments have an identity provider.
LIMITS: Final = DocumentLimits(characters=4 * 1024 * 1024, nodes=500_000)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class RealmError(Exception):
    """The realm file, or a change to it, is invalid. The text names file, line and remedy, and contains no token or digest."""


@dataclasses.dataclass(frozen=True, slots=True)
class RealmTenant:
    """A tenant of the realm."""

    id: TenantId
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class RealmUser:
    """A user, and the roles granted in each tenant (by the tenant's name)."""

    name: str
    roles: Mapping[str, frozenset[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class RealmToken:
    """A token without its secret: `sha256` is of the whole token as the client sends it."""

    id: str
    user: str
    tenant: str
    sha256: str = dataclasses.field(repr=False)
    expires: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class RealmData:
    """The whole file. Tenants and users are keyed by name, tokens by id."""

    tenants: Mapping[str, RealmTenant]
    users: Mapping[str, RealmUser]
    tokens: Mapping[str, RealmToken]


def parse(text: str, path: Path) -> RealmData:
    """Parse a realm file's text; `path` is for error texts only. Raises RealmError: the text names file and line."""
    try:
        documents = read_text(text, file=str(path), limits=LIMITS, failsafe=True)
        root = only_document(documents, str(path), needed="the minimum is `version: 1`")
    except DocumentError as error:
        raise RealmError(str(error)) from None
    return _Reader(path).realm(root)


def dump(data: RealmData) -> str:
    """The file's text; `parse` returns the same data."""
    document = {
        "version": 1,
        "tenants": [{"id": str(tenant.id), "name": tenant.name} for tenant in data.tenants.values()],
        "users": [_user_mapping(user) for user in data.users.values()],
        "tokens": [_token_mapping(token) for token in data.tokens.values()],
    }
    header = "# Archelon's local realm, changed by `archelon realm`. Services notice manual changes within a second.\n"
    return header + yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)


def check_name(name: str, what: str) -> str:
    """Return `name` if it is valid for a tenant or user. Raises ValueError: it is not; the text states the allowed form."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} has 1 to 63 letters, digits and . _ @ -, and begins with a letter or digit")
    return name


def _user_mapping(user: RealmUser) -> dict[str, object]:
    return {"name": user.name, "roles": {tenant: sorted(roles) for tenant, roles in user.roles.items()}}


def _token_mapping(token: RealmToken) -> dict[str, object]:
    mapping: dict[str, object] = {"id": token.id, "user": token.user, "tenant": token.tenant, "sha256": token.sha256}
    if token.expires is not None:
        mapping["expires"] = token.expires.isoformat()
    return mapping


class _Reader:
    """Walks the nodes, which have line numbers, instead of the values, which do not."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def realm(self, root: Node) -> RealmData:
        members = self._mapping(root, "the file", required=("version",), optional=("tenants", "users", "tokens"))
        if self._text(members["version"], "version") != "1":
            raise self._error(members["version"], "version must be 1; this file was written for another Archelon")
        tenants = self._tenants(members.get("tenants"))
        users = self._users(members.get("users"), tenants)
        return RealmData(tenants, users, self._tokens(members.get("tokens"), tenants, users))

    def _tenants(self, node: Node | None) -> dict[str, RealmTenant]:
        tenants: dict[str, RealmTenant] = {}
        taken: set[str] = set()
        for item in self._sequence(node, "tenants"):
            members = self._mapping(item, "a tenant", required=("id", "name"))
            tenant = RealmTenant(
                TenantId(self._name(members["id"], "a tenant's id")), self._name(members["name"], "a tenant's name")
            )
            # Ids and names share one namespace: X-Tenant-Name may hold either, and must never mean two tenants.
            for word in {tenant.id, tenant.name}:
                if word in taken:
                    raise self._error(item, f"{word!r} names two tenants; ids and names must all differ")
                taken.add(word)
            tenants[tenant.name] = tenant
        return tenants

    def _users(self, node: Node | None, tenants: Mapping[str, RealmTenant]) -> dict[str, RealmUser]:
        users: dict[str, RealmUser] = {}
        for item in self._sequence(node, "users"):
            members = self._mapping(item, "a user", required=("name",), optional=("roles",))
            name = self._name(members["name"], "a user's name")
            if name in users:
                raise self._error(item, f"user {name!r} is defined twice")
            users[name] = RealmUser(name, self._grants(members.get("roles"), tenants))
        return users

    def _grants(self, node: Node | None, tenants: Mapping[str, RealmTenant]) -> dict[str, frozenset[str]]:
        if node is None:
            return {}
        grants: dict[str, frozenset[str]] = {}
        for tenant, _, granted in self._entries(node, "roles"):
            if tenant not in tenants:
                raise self._error(granted, f"roles in tenant {tenant!r}: no tenant of that name")
            roles = set()
            for item in self._sequence(granted, "roles"):
                role = self._text(item, "a role")
                if role not in Role.GRANTABLE:
                    known = ", ".join(sorted(Role.GRANTABLE))
                    raise self._error(item, f"role {role!r} cannot be granted; expected one of {known}")
                roles.add(role)
            grants[tenant] = frozenset(roles)
        return grants

    def _tokens(
        self, node: Node | None, tenants: Mapping[str, RealmTenant], users: Mapping[str, RealmUser]
    ) -> dict[str, RealmToken]:
        tokens: dict[str, RealmToken] = {}
        digests: set[str] = set()
        for item in self._sequence(node, "tokens"):
            members = self._mapping(item, "a token", required=("id", "user", "tenant", "sha256"), optional=("expires",))
            token = RealmToken(
                self._name(members["id"], "a token's id"),
                self._text(members["user"], "user"),
                self._text(members["tenant"], "tenant"),
                self._text(members["sha256"], "sha256"),
                self._time(members.get("expires")),
            )
            if token.user not in users:
                raise self._error(members["user"], f"token {token.id!r}: no user {token.user!r}")
            if token.tenant not in tenants:
                raise self._error(members["tenant"], f"token {token.id!r}: no tenant {token.tenant!r}")
            if not _DIGEST.fullmatch(token.sha256):
                raise self._error(
                    members["sha256"],
                    f"token {token.id!r}: sha256 must be the 64 hexadecimal digits of the token's SHA-256, not the token",
                )
            if token.id in tokens or token.sha256 in digests:
                raise self._error(item, f"token {token.id!r} is defined twice")
            tokens[token.id] = token
            digests.add(token.sha256)
        return tokens

    def _mapping(
        self, node: Node, what: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> dict[str, Node]:
        entries = self._entries(node, what)
        for name, _, value in entries:
            if name not in required and name not in optional:
                allowed = ", ".join(required + optional)
                raise self._error(value, f"{what} has no member {name!r}; expected one of {allowed}")
        members = {name: value for name, _, value in entries}
        for name in required:
            if name not in members:
                raise self._error(node, f"{what} needs a member {name!r}")
        return members

    def _entries(self, node: Node, what: str) -> tuple[Entry, ...]:
        if not isinstance(node, tree.Mapping):
            raise self._error(node, f"{what} must be a mapping (name: value)")
        return node.entries

    def _sequence(self, node: Node | None, what: str) -> tuple[Node, ...]:
        if node is None:
            return ()
        if not isinstance(node, tree.Sequence):
            raise self._error(node, f"{what} must be a list")
        return node.items

    def _text(self, node: Node, what: str) -> str:
        if not isinstance(node, tree.Scalar):
            raise self._error(node, f"{what} must be a single value")
        return str(node.value)

    def _name(self, node: Node, what: str) -> str:
        try:
            return check_name(self._text(node, what), what)
        except ValueError as error:
            raise self._error(node, str(error)) from None

    def _time(self, node: Node | None) -> datetime.datetime | None:
        if node is None:
            return None
        try:
            time = datetime.datetime.fromisoformat(self._text(node, "expires"))
        except ValueError:
            time = None
        if time is None or time.tzinfo is None:
            raise self._error(node, "expires must be a time with its zone, for example 2027-01-31T00:00:00+00:00")
        return time

    def _error(self, node: Node, message: str) -> RealmError:
        return RealmError(f"{self._path}:{node.mark}: {message}")
