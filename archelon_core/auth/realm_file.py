"""Atomic changes to the local realm's file, by any number of processes.

A change is: lock, read, change in memory, write a new file beside it, sync, rename over it. The lock is a file of its own
(`<name>.lock`): a lock on the realm file itself would be lost at the rename. Readers need no lock, since a rename shows them the
old file or the new one.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import os
import secrets
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..documents.problems import DocumentError
from ..documents.reading import text_of
from ..private_files import others_may_read
from . import realm_document
from .realm_document import RealmData, RealmError, RealmTenant, RealmToken, RealmUser
from .subject import Clock, Role, TenantId

#: Prefix of a realm's tokens, by which a person or a scanner for leaked secrets recognizes one.
TOKEN_PREFIX = "archelon_"  # nosec  # noqa: S105
_TOKEN_BYTES = 32


def token_digest(token: str) -> str:
    """SHA-256 of a token as 64 hexadecimal digits, as stored in the realm."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token. `secret` is shown to its owner once and stored nowhere."""

    id: str
    secret: str = dataclasses.field(repr=False)
    expires: datetime.datetime | None


class RealmFile:
    """The realm at `path`, to be read and changed.

    Args:
        path: the YAML file; the first change creates it with mode 0600.
        clock: seconds since the epoch.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock

    def read(self) -> RealmData:
        """The present content of the file. Raises RealmError: it is missing, invalid, too large, or readable by others."""
        try:
            with self.path.open("rb") as file:
                self._check_mode(os.fstat(file.fileno()))
                text = text_of(file, file=str(self.path), limits=realm_document.LIMITS)
        except FileNotFoundError:
            raise RealmError(f"{self.path}: no such file; `archelon realm` creates one") from None
        except OSError as error:
            raise RealmError(f"{self.path}: cannot be read: {error.strerror}") from None
        except DocumentError as error:
            raise RealmError(str(error)) from None
        return realm_document.parse(text, self.path)

    def add_tenant(self, name: str, *, tenant_id: str | None = None) -> RealmTenant:
        """Add a tenant; without `tenant_id` it gets a random one (32 hexadecimal digits, as Keystone's).

        Raises:
            RealmError: the name or id is taken or not well formed.
        """
        tenant = RealmTenant(TenantId(tenant_id or uuid.uuid4().hex), name)
        self._check_name(name, "a tenant's name")
        self._check_name(tenant.id, "a tenant's id")
        with self._change() as draft:
            names = {name for other in draft.tenants.values() for name in (other.id, other.name)}
            for word in (tenant.id, tenant.name):
                if word in names:
                    raise RealmError(f"{self.path}: tenant {word!r} exists already")
            draft.tenants[name] = tenant
        return tenant

    def remove_tenant(self, name: str) -> None:
        """Remove a tenant, everyone's roles in it, and its tokens. Raises RealmError: no such tenant."""
        with self._change() as draft:
            draft.known_tenant(name)
            del draft.tenants[name]
            for user in list(draft.users.values()):
                roles = {tenant: granted for tenant, granted in user.roles.items() if tenant != name}
                draft.users[user.name] = RealmUser(user.name, roles)
            draft.drop_tokens(lambda token: token.tenant == name)

    def add_user(self, name: str, *, tenant: str, roles: Collection[str] = (Role.TENANT,)) -> RealmUser:
        """Add a user with `roles` in `tenant` (by name).

        Raises:
            RealmError: the name is taken or not well formed, or tenant or role is unknown.
        """
        self._check_name(name, "a user's name")
        with self._change() as draft:
            if name in draft.users:
                raise RealmError(f"{self.path}: user {name!r} exists already; grant changes roles")
            user = RealmUser(name, {draft.known_tenant(tenant): self._known_roles(roles)})
            draft.users[name] = user
        return user

    def grant(self, name: str, *, tenant: str, roles: Collection[str]) -> RealmUser:
        """Replace the user's roles in `tenant` by `roles`; an empty collection removes them all.

        Raises:
            RealmError: user, tenant or role is unknown.
        """
        with self._change() as draft:
            grants = dict(draft.known_user(name).roles)
            grants[draft.known_tenant(tenant)] = self._known_roles(roles)
            if not roles:
                del grants[tenant]
            user = RealmUser(name, grants)
            draft.users[name] = user
        return user

    def remove_user(self, name: str) -> None:
        """Remove a user and their tokens.

        Raises:
            RealmError: no such user.
        """
        with self._change() as draft:
            draft.known_user(name)
            del draft.users[name]
            draft.drop_tokens(lambda token: token.user == name)

    def issue_token(self, user: str, *, tenant: str, lifetime: datetime.timedelta | None) -> IssuedToken:
        """Issue a token for `user` in `tenant`. With `lifetime` None it is valid until it is revoked.

        Raises:
            RealmError: user or tenant is unknown, the user has no role there, or the lifetime is not positive.
        """
        if lifetime is not None and lifetime <= datetime.timedelta(0):
            raise RealmError(f"{self.path}: a token's lifetime must be positive")
        secret = TOKEN_PREFIX + _base64url(secrets.token_bytes(_TOKEN_BYTES))
        token_id = secrets.token_hex(8)
        expires = None
        if lifetime is not None:
            now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
            try:
                expires = (now + lifetime).replace(microsecond=0)
            except OverflowError:
                raise RealmError(f"{self.path}: that lifetime ends after the year 9999; give none instead") from None
        with self._change() as draft:
            if not draft.known_user(user).roles.get(draft.known_tenant(tenant)):
                raise RealmError(f"{self.path}: user {user!r} has no role in tenant {tenant!r}; grant one first")
            draft.tokens[token_id] = RealmToken(token_id, user, tenant, token_digest(secret), expires)
        return IssuedToken(token_id, secret, expires)

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token by its id. A service notices within a second, and may have cached the token for ten more.

        Raises:
            RealmError: no such token.
        """
        with self._change() as draft:
            if token_id not in draft.tokens:
                raise RealmError(f"{self.path}: no token {token_id!r}")
            del draft.tokens[token_id]

    @contextlib.contextmanager
    def _change(self) -> Iterator[_Draft]:
        with self._locked():
            present = self.read() if self.path.exists() else RealmData({}, {}, {})
            draft = _Draft(self.path, present)
            yield draft
            text = realm_document.dump(RealmData(draft.tenants, draft.users, draft.tokens))
            # Never write what the next reader would refuse.
            limit = realm_document.LIMITS.characters
            if len(text) > limit:
                raise RealmError(f"{self.path}: would be larger than {limit} characters; remove tokens")
            realm_document.parse(text, self.path)
            try:
                self._replace(text)
            except OSError as error:
                raise RealmError(f"{self.path}: cannot be written: {error.strerror}") from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RealmError(f"{lock}: cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, text: str) -> None:
        # A fixed name, since only the holder of the lock writes: this also removes what a killed process left behind.
        draft = self.path.with_name(f".{self.path.name}.draft")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _check_mode(self, status: os.stat_result) -> None:
        if others_may_read(status):
            raise RealmError(f"{self.path}: others may read or write it; run `chmod 600 {self.path}`")

    def _check_name(self, name: str, what: str) -> None:
        try:
            realm_document.check_name(name, what)
        except ValueError as error:
            raise RealmError(f"{self.path}: {error}") from None

    def _known_roles(self, roles: Collection[str]) -> frozenset[str]:
        for role in roles:
            if role not in Role.GRANTABLE:
                known = ", ".join(sorted(Role.GRANTABLE))
                raise RealmError(f"{self.path}: role {role!r} cannot be granted; expected one of {known}")
        return frozenset(roles)


class _Draft:
    """The realm during a change."""

    def __init__(self, path: Path, data: RealmData) -> None:
        self._path = path
        self.tenants = dict(data.tenants)
        self.users = dict(data.users)
        self.tokens = dict(data.tokens)

    def known_tenant(self, name: str) -> str:
        if name not in self.tenants:
            raise RealmError(f"{self._path}: no tenant {name!r}")
        return name

    def known_user(self, name: str) -> RealmUser:
        if name not in self.users:
            raise RealmError(f"{self._path}: no user {name!r}")
        return self.users[name]

    def drop_tokens(self, doomed: Callable[[RealmToken], bool]) -> int:
        kept = {token.id: token for token in self.tokens.values() if not doomed(token)}
        dropped = len(self.tokens) - len(kept)
        self.tokens = kept
        return dropped


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
