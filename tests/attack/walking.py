"""A second, independent evaluation of the table of grants for a caller and an object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import falcon.inspect
import sqlalchemy as sa

from archelon_core.auth import Role
from archelon_core.auth.rules import GRANTS, Rule, Scope
from archelon_core.database import Database

#: The caller is authorized: the request succeeds, or is refused for its content.
DONE = "done"


@dataclasses.dataclass(frozen=True)
class Caller:
    """A caller with or without a token.

    Attributes:
        name: shown in failures. token: as sent; None for none.
        role: its only role; empty if the service does not authenticate the caller.
        instance: named by the token. audience: of an exchanged token. starting: whether it is a start token.
    """

    name: str
    token: str | None
    role: str = ""
    tenant: str = ""
    instance: str = ""
    audience: str = ""
    starting: bool = False


@dataclasses.dataclass(frozen=True)
class Thing:
    """The object of a request.

    Attributes:
        tenant: its owner. instance: the instance itself, or the one that it belongs to. composed_by, bound_to: ids of instances.
        bundle_of: the instances that run the bundle.
    """

    path: str
    tenant: str
    instance: str = ""
    composed_by: str = ""
    bound_to: frozenset[str] = frozenset()
    bundle_of: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Probe:
    """One request of one caller, and the expected result: `done`, or a status."""

    method: str
    path: str
    expected: str
    caller: Caller
    body: Any = b""
    kind: str | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def within(scope: Scope, caller: Caller, thing: Thing) -> bool:
    """Return whether an object is within a caller's scope."""
    if scope is Scope.ANY:
        return True
    if caller.tenant != thing.tenant:
        return False
    if scope is Scope.OWN_TENANT:
        # A service's token that names an instance is for that instance only.
        named = caller.instance if caller.role == Role.SERVICE else ""
        return not named or thing.instance in ("", named)
    related = {
        Scope.OWN_INSTANCE: {thing.instance},
        Scope.COMPOSED: {thing.composed_by},
        Scope.BOUND: thing.bound_to,
        Scope.OWN_BUNDLE: thing.bundle_of,
    }[scope]
    return bool(caller.instance) and caller.instance in related


def granted(rule: Rule, caller: Caller, thing: Thing) -> bool:
    """Return whether the table grants a caller the rule for an object."""
    return any(
        grant.rule == rule and grant.role == caller.role and within(grant.scope, caller, thing) for grant in GRANTS
    )


def reached(caller: Caller, thing: Thing) -> bool:
    """Return whether an object exists for the caller; for an instance's token, most of its tenant's objects do not."""
    if caller.role != Role.INSTANCE:
        return caller.tenant == thing.tenant
    return any(within(scope, caller, thing) for scope in (Scope.OWN_INSTANCE, Scope.COMPOSED, Scope.BOUND))


def routes_of(application: Any) -> set[tuple[str, str]]:
    """Return path and method of every route beside OCCI's."""
    found = set()
    for route in falcon.inspect.inspect_compiled_router(application.falcon._router):
        found |= {(route.path, each.method) for each in route.methods if not each.internal and each.method != "OPTIONS"}
    return found


def contents(database: Database, skip: frozenset[str]) -> dict[str, list[str]]:
    """Return all rows of a database's tables."""
    metadata = sa.MetaData()
    metadata.reflect(database.engine)
    with database.read() as connection:
        return {
            name: sorted(repr(tuple(row)) for row in connection.execute(sa.select(table)))
            for name, table in metadata.tables.items()
            if name not in skip
        }


def mismatches(probes: list[Probe], ask: Callable[[Probe], int]) -> list[str]:
    """Send the requests, and return those with an unexpected response."""
    wrong = []
    for each in probes:
        status = ask(each)
        done = status < 400 or status in (400, 409, 412, 415)
        if (status != int(each.expected)) if each.expected != DONE else not done:
            wrong.append(f"{each.caller.name}: {each.method} {each.path} is {status}, not {each.expected}")
    return wrong
