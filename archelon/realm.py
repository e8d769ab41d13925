"""`archelon realm`: tenants, users and tokens of the local realm's file. Services see a change within a second."""

from __future__ import annotations

import datetime
import functools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .errors import CommandError, Status
from .output import Answers, output_option
from .state_directory import found_upwards

if TYPE_CHECKING:
    from archelon_core.auth import RealmFile

Command = TypeVar("Command", bound=Callable[..., Any])
_SPAN = re.compile(r"([0-9]+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_ROLES = click.Choice(["tenant", "read-only", "provider", "operator"])


def _realm(command: Command) -> Command:
    """Gives a command `--file`, and its `realm` argument."""

    @click.option("--file", type=click.Path(path_type=Path), help="The realm; that of `archelon dev` without it.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, file: Path | None, **options: Any) -> Any:
        from archelon_core.auth import RealmFile

        state = found_upwards(Path.cwd())
        if file is None and state is None:
            raise CommandError("no realm is known; give --file, or run `archelon dev` here first", status=Status.USAGE)
        path = file if file is not None else state.realm if state is not None else Path()
        return command(*arguments, realm=RealmFile(path, time.time), **options)

    return wrapped  # type: ignore[return-value]


@click.group()
def realm() -> None:
    """Tenants, users and tokens of the local realm."""


@realm.command()
@_realm
@output_option
def show(realm: RealmFile, answers: Answers) -> None:
    """Everybody in the realm; of tokens their ids alone."""
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
    answers.rows(rows, ["tenant", "user", "roles", "tokens"], empty="there is nobody yet")


@realm.group()
def tenant() -> None:
    """Tenants."""


@tenant.command("add")
@click.argument("name")
@click.option("--id", "tenant_id", help="Its id, such as a Keystone project's; random without it.")
@_realm
@output_option
def add_tenant(name: str, tenant_id: str | None, realm: RealmFile, answers: Answers) -> None:
    """Add a tenant."""
    added = realm.add_tenant(name, tenant_id=tenant_id)
    answers.line(f"tenant {name} has the id {added.id}", name=name, id=added.id)


@tenant.command("remove")
@click.argument("name")
@_realm
@output_option
def remove_tenant(name: str, realm: RealmFile, answers: Answers) -> None:
    """Remove a tenant, everyone's roles in it, and its tokens. Its instances stay; dispose of them first."""
    realm.remove_tenant(name)
    answers.line(f"tenant {name} is removed", name=name)


@realm.group()
def user() -> None:
    """Users."""


@user.command("add")
@click.argument("name")
@click.option("--tenant", required=True)
@click.option("--role", "roles", multiple=True, type=_ROLES, default=["tenant"], show_default=True)
@_realm
@output_option
def add_user(name: str, tenant: str, roles: tuple[str, ...], realm: RealmFile, answers: Answers) -> None:
    """Add a user with roles in a tenant."""
    realm.add_user(name, tenant=tenant, roles=roles)
    answers.line(f"user {name} is {', '.join(roles)} in {tenant}", name=name, tenant=tenant, roles=list(roles))


@user.command()
@click.argument("name")
@click.option("--tenant", required=True)
@click.option("--role", "roles", multiple=True, type=_ROLES)
@_realm
@output_option
def grant(name: str, tenant: str, roles: tuple[str, ...], realm: RealmFile, answers: Answers) -> None:
    """Make these a user's roles in a tenant; without --role, none."""
    realm.grant(name, tenant=tenant, roles=roles)
    answers.line(
        f"user {name} is {', '.join(roles) or 'nothing'} in {tenant}", name=name, tenant=tenant, roles=list(roles)
    )


@user.command("remove")
@click.argument("name")
@_realm
@output_option
def remove_user(name: str, realm: RealmFile, answers: Answers) -> None:
    """Remove a user and their tokens."""
    realm.remove_user(name)
    answers.line(f"user {name} is removed", name=name)


@realm.group()
def token() -> None:
    """Tokens."""


@token.command()
@click.argument("user")
@click.option("--tenant", required=True)
@click.option("--lifetime", help="Such as 30m, 12h or 90d; without it, until it is revoked.")
@_realm
@output_option
def issue(user: str, tenant: str, lifetime: str | None, realm: RealmFile, answers: Answers) -> None:
    """Make a token. It is shown once, and kept nowhere."""
    issued = realm.issue_token(user, tenant=tenant, lifetime=_span(lifetime))
    if not answers.as_json:
        click.echo(f"token {issued.id}; revoke it with `archelon realm token revoke {issued.id}`", err=True)
    answers.line(issued.secret, id=issued.id, token=issued.secret, expires=issued.expires)


@token.command()
@click.argument("token_id")
@_realm
@output_option
def revoke(token_id: str, realm: RealmFile, answers: Answers) -> None:
    """Revoke a token by its id."""
    realm.revoke_token(token_id)
    answers.line(f"token {token_id} is revoked", id=token_id)


def _span(text: str | None) -> datetime.timedelta | None:
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None:
        raise CommandError(f"{text!r} is no lifetime; write a number with s, m, h or d", status=Status.USAGE)
    try:
        return datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise CommandError(f"{text!r} is longer than there are years; give none instead", status=Status.USAGE) from None
