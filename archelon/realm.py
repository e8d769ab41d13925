"""`archelon realm`: manages tenants, users and tokens in the local realm's file. Services pick up changes within a second."""

from __future__ import annotations

import datetime
import functools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .errors import CommandError, Status
from .output import Output, output_option
from .state_directory import present

if TYPE_CHECKING:
    from archelon_core.auth import RealmFile

Command = TypeVar("Command", bound=Callable[..., Any])
_SPAN = re.compile(r"([0-9]+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_ROLES = click.Choice(["tenant", "read-only", "provider", "operator"])


def _realm(command: Command) -> Command:
    """Decorate a command with `--file` and a `realm` argument."""

    @click.option("--file", type=click.Path(path_type=Path), help="The realm's file; default that of `archelon dev`.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, file: Path | None, **options: Any) -> Any:
        from archelon_core.auth import RealmFile

        if file is None:
            state = present(os.environ, Path.cwd())
            if state is None:
                raise CommandError(
                    "no realm is known; give --file, set ARCHELON_STATE, or run `archelon dev` here first",
                    status=Status.USAGE,
                )
            file = state.realm
        return command(*arguments, realm=RealmFile(file, time.time), **options)

    return wrapped  # type: ignore[return-value]


@click.group()
def realm() -> None:
    """Manage tenants, users and tokens of the local realm."""


@realm.command()
@_realm
@output_option
def show(realm: RealmFile, output: Output) -> None:
    """List the realm's tenants and users; tokens are shown by id only."""
    data = realm.read()
    rows = []
    for user in data.users.values():
        for tenant, roles in user.roles.items():
            tokens = [token.id for token in data.tokens.values() if (token.user, token.tenant) == (user.name, tenant)]
            rows.append(
                {"tenant": tenant, "user": user.name, "roles": ", ".join(sorted(roles)), "tokens": ", ".join(tokens)}
            )
    for name in data.tenants:
        if not any(row["tenant"] == name for row in rows):
            rows.append({"tenant": name})
    output.rows(rows, ["tenant", "user", "roles", "tokens"], empty="the realm is empty")


@realm.group()
def tenant() -> None:
    """Manage tenants."""


@tenant.command("add")
@click.argument("name")
@click.option("--id", "tenant_id", help="Its id, such as that of a Keystone project; default random.")
@_realm
@output_option
def add_tenant(name: str, tenant_id: str | None, realm: RealmFile, output: Output) -> None:
    """Add a tenant."""
    added = realm.add_tenant(name, tenant_id=tenant_id)
    output.line(f"tenant {name} has the id {added.id}", name=name, id=added.id)


@tenant.command("remove")
@click.argument("name")
@_realm
@output_option
def remove_tenant(name: str, realm: RealmFile, output: Output) -> None:
    """Remove a tenant with its roles and tokens. Its instances remain; dispose of them first."""
    realm.remove_tenant(name)
    output.line(f"tenant {name} is removed", name=name)


@realm.group()
def user() -> None:
    """Manage users."""


@user.command("add")
@click.argument("name")
@click.option("--tenant", required=True)
@click.option("--role", "roles", multiple=True, type=_ROLES, default=["tenant"], show_default=True)
@_realm
@output_option
def add_user(name: str, tenant: str, roles: tuple[str, ...], realm: RealmFile, output: Output) -> None:
    """Add a user with roles in a tenant."""
    realm.add_user(name, tenant=tenant, roles=roles)
    output.line(f"user {name} is {', '.join(roles)} in {tenant}", name=name, tenant=tenant, roles=list(roles))


@user.command()
@click.argument("name")
@click.option("--tenant", required=True)
@click.option("--role", "roles", multiple=True, type=_ROLES)
@_realm
@output_option
def grant(name: str, tenant: str, roles: tuple[str, ...], realm: RealmFile, output: Output) -> None:
    """Replace a user's roles in a tenant; without --role, remove them."""
    realm.grant(name, tenant=tenant, roles=roles)
    output.line(
        f"user {name} is {', '.join(roles) or 'without roles'} in {tenant}", name=name, tenant=tenant, roles=list(roles)
    )


@user.command("remove")
@click.argument("name")
@_realm
@output_option
def remove_user(name: str, realm: RealmFile, output: Output) -> None:
    """Remove a user and their tokens."""
    realm.remove_user(name)
    output.line(f"user {name} is removed", name=name)


@realm.group()
def token() -> None:
    """Manage tokens."""


@token.command()
@click.argument("user")
@click.option("--tenant", required=True)
@click.option("--lifetime", help="Such as 30m, 12h or 90d; default until revoked.")
@_realm
@output_option
def issue(user: str, tenant: str, lifetime: str | None, realm: RealmFile, output: Output) -> None:
    """Issue a token. It is printed once and not stored."""
    issued = realm.issue_token(user, tenant=tenant, lifetime=_span(lifetime))
    if not output.as_json:
        click.echo(f"token {issued.id}; revoke it with `archelon realm token revoke {issued.id}`", err=True)
    output.line(issued.secret, id=issued.id, token=issued.secret, expires=issued.expires)


@token.command()
@click.argument("token_id")
@_realm
@output_option
def revoke(token_id: str, realm: RealmFile, output: Output) -> None:
    """Revoke a token by its id."""
    realm.revoke_token(token_id)
    output.line(f"token {token_id} is revoked", id=token_id)


def _span(text: str | None) -> datetime.timedelta | None:
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None:
        raise CommandError(f"{text!r} is not a lifetime; give a number followed by s, m, h or d", status=Status.USAGE)
    try:
        return datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise CommandError(
            f"{text!r} is too long; omit --lifetime for a token without expiry", status=Status.USAGE
        ) from None
