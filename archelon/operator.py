"""`archelon operator`: every tenant's instances, the workers and their backlog, and whether orders are taken."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from archelon_api import service_manager as wire

from . import completion
from .connection import Connection, service_options
from .errors import CommandError, Status
from .output import Output, output_option

if TYPE_CHECKING:
    from occi_service import client

_INSTANCES: Final = "/operator/instances"
_SHORTEST: Final = 4


@click.group()
def operator() -> None:
    """Operate a service manager, for all tenants. Needs the role operator."""


@operator.command()
@click.option("--in-state", type=click.Choice(wire.STATES), help="Only instances in this state.")
@click.option("--health", type=click.Choice(wire.HEALTHS), help="Only those with this health.")
@click.option("--service", help="Only instances of this service: its term or type.", shell_complete=completion.services)
@click.option("--tenant", help="Only instances of the tenant with this id.")
@service_options("operator")
@output_option
def instances(
    in_state: str | None,
    health: str | None,
    service: str | None,
    tenant: str | None,
    connection: Connection,
    output: Output,
) -> None:
    """List the instances of all tenants."""
    from .lookup import service_named

    with connection.open() as manager:
        if service is not None and "#" not in service:
            service = service_named(manager, service).type_id
        rows = list(of_all_tenants(manager, state=in_state, health=health, service=service, tenant=tenant))
    columns = ["id", "tenant", "service", "state", "failed", "health", "generation"]
    output.rows(rows, columns, wide=["path"], empty="no instances")


@operator.command()
@service_options("operator")
@output_option
def drain(connection: Connection, output: Output) -> None:
    """Stop taking orders. Existing instances continue."""
    _set_draining(connection, output, draining=True)


@operator.command()
@service_options("operator")
@output_option
def undrain(connection: Connection, output: Output) -> None:
    """Take orders again."""
    _set_draining(connection, output, draining=False)


@operator.command()
@service_options("operator")
@output_option
def workers(connection: Connection, output: Output) -> None:
    """Show which worker has what under a lease, and the work of each topic that waits."""
    with connection.open() as manager:
        found = _get(manager, "/operator/work")
        draining = _get(manager, "/operator/draining")["draining"]
    if output.as_json:
        output.document({**found, "draining": draining})
        return
    output.rows(found["leases"], ["worker", "topic", "key", "attempt", "seconds"], empty="no worker has work now")
    backlog = [{**each, "lag": f"{each['lag']:.1f} s"} for each in found["backlog"]]
    output.rows(backlog, ["topic", "due", "waiting", "running", "dead", "lag"], empty="there is no work")
    if draining:
        click.echo("no orders are taken; see `archelon operator undrain`", err=True)


@operator.command()
@click.argument("name", metavar="INSTANCE")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@service_options("operator")
@output_option
def dispose(name: str, yes: bool, connection: Connection, output: Output) -> None:
    """Dispose of an instance of any tenant, even if it is locked.

    INSTANCE is an id, its first characters, or a path.
    """
    from .instance_order import confirm

    with connection.open() as manager:
        found = _found(manager, name)
        confirm(f"{found['path']} of the tenant {found['tenant']}", yes=yes)
        manager.delete(f"{_INSTANCES}/{found['id']}")
    output.line(f"{found['path']} is being disposed of", instance=found["id"], path=found["path"], state="destroy")


def _set_draining(connection: Connection, output: Output, *, draining: bool) -> None:
    with connection.open() as manager:
        manager.put_bytes("/operator/draining", json.dumps({"draining": draining}).encode(), "application/json")
    words = "no more orders are taken; existing instances continue" if draining else "orders are taken"
    output.line(words, draining=draining)


def _found(manager: client.Client, name: str) -> dict[str, Any]:
    """Return the instance with this path, or whose id begins so. Raises CommandError if none or several match."""
    if len(name) < _SHORTEST:
        raise CommandError(f"{name!r} names no instance; give {_SHORTEST} or more characters", status=Status.USAGE)
    rows = [row for row in of_all_tenants(manager) if row["id"].startswith(name) or row["path"] == name]
    if not rows:
        raise CommandError(f"there is no instance {name!r}", status=Status.NOT_FOUND)
    if len(rows) > 1:
        known = ", ".join([row["id"] for row in rows[:5]])
        raise CommandError(f"{name!r} is ambiguous: {known}; give more characters of one id", status=Status.CONFLICT)
    return rows[0]


def of_all_tenants(manager: client.Client, **filters: str | None) -> Iterator[dict[str, Any]]:
    """Yield the instances of all tenants, page after page."""
    query = {name: value for name, value in filters.items() if value is not None}
    while True:
        rows = _get(manager, f"{_INSTANCES}?{urllib.parse.urlencode(query)}")["instances"]
        yield from rows
        if not rows:
            return
        query["after"] = rows[-1]["id"]


def _get(manager: client.Client, path: str) -> Any:
    return json.loads(manager.get_bytes(path, accept="application/json"))
