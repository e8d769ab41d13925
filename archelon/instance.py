"""`archelon instance`: a tenant's instances of services."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

import click

from archelon_api import deploy, names
from archelon_api import service_manager as wire
from occi_service import client

from . import completion, instance_view
from .connection import Connection, service_options
from .errors import CommandError, Status
from .follow import await_settled
from .instance_order import Order, confirm, delete_all, delete_one, order_of, read_order, show_dry_run
from .instance_view import name_argument as _name
from .instance_view import show_instance as _show
from .lookup import action_of, instance_at, instance_id, instances, service_named
from .output import Output, for_terminal, output_option
from .values import ask_missing, read_values

#: Seconds between two polls of a log if the service does not wait.
_LOG_PAUSE = 1.0
_wait = click.option("--wait/--no-wait", default=True, help="Wait until it has settled.")
_timeout = click.option("--timeout", type=click.FloatRange(min=0.1), default=600.0, show_default=True, help="Seconds.")
_dry_run = click.option("--dry-run", is_flag=True, help="Check everything at the service manager, and make no change.")


def _required_without_file(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None and context.params.get("file") is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    return value


@click.group()
def instance() -> None:
    """Order and manage instances of services.

    INSTANCE is a URL, a path such as /hello/<id>, an id, or the first characters of an id.
    """


for _command in (
    instance_view.list_instances,
    instance_view.show,
    instance_view.describe,
    instance_view.watch,
    instance_view.events,
):
    instance.add_command(_command)


@instance.command()
@click.argument(
    "service", required=False, metavar="SERVICE", callback=_required_without_file, shell_complete=completion.services
)
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...", shell_complete=completion.attributes)
@click.option("-f", "--file", type=click.File("rb"), is_eager=True, help="Order instead of SERVICE; see export.")
@click.option("--title", help="A human-readable name.")
@click.option("--region", help="Region to deploy to.")
@_dry_run
@_wait
@_timeout
@service_options()
@output_option
def create(
    service: str | None,
    values: tuple[str, ...],
    file: BinaryIO | None,
    title: str | None,
    region: str | None,
    dry_run: bool,
    wait: bool,
    timeout: float,
    connection: Connection,
    output: Output,
) -> None:
    """Order an instance of SERVICE.

    `name:=value` passes a value as JSON. `name=@FILE` reads it from a file, `name=-` from standard input; `name=?` asks for it.
    """
    if file is not None and service is not None:
        # The order names its service.
        values = (service, *values)
    order = read_order(file) if file is not None else Order(service or "")
    with connection.open() as manager:
        kind = service_named(manager, order.service)
        reads_input = "-f -" if file is not None and file.name == "<stdin>" else None
        attributes = {**order.attributes, **read_values(values, kind, reads_input=reads_input)}
        ask_missing(attributes, kind, order.secrets)
        region, title = region or order.region, title or order.title
        if region is not None:
            attributes[names.REGION] = region
        if dry_run:
            made = manager.dry_run(kind.location or "/", kind.type_id, attributes, title=title)
            show_dry_run(kind, None, made, output)
            return
        path = manager.create(kind.type_id, attributes, title=title, at=kind.location)
        if wait:
            click.echo(path, err=True)
            await_settled(manager, path, timeout=timeout)
        _show(manager, path, output)


@instance.command()
@_name
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...", shell_complete=completion.attributes)
@_dry_run
@_wait
@_timeout
@service_options()
@output_option
def update(
    name: str,
    values: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    timeout: float,
    connection: Connection,
    output: Output,
) -> None:
    """Change an instance's attributes. Values are given as for create."""
    with connection.open() as manager:
        path = instance_at(manager, name)
        before = manager.get(path)
        kind = service_named(manager, before.kind)
        attributes = read_values(values, kind)
        if dry_run:
            show_dry_run(kind, before, manager.dry_run(path, attributes=attributes), output)
            return
        manager.update(path, attributes)
        if wait:
            await_settled(manager, path, timeout=timeout)
        _show(manager, path, output)


@instance.command()
@_name
@service_options()
@output_option
def export(name: str, connection: Connection, output: Output) -> None:
    """Print the order of an instance in YAML, for `archelon instance create -f`. Secrets are listed by name only."""
    with connection.open() as manager:
        path = instance_at(manager, name)
        order = order_of(manager, path, service_named(manager, manager.get(path).kind)).document()
    if output.as_json:
        output.document(order)
        return
    import yaml

    click.echo(yaml.safe_dump(order, sort_keys=False, allow_unicode=True), nl=False)


@instance.command()
@click.argument("given", metavar="INSTANCE...", nargs=-1, shell_complete=completion.instances)
@click.option("--all", "everything", is_flag=True, help="All of your instances.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--force", is_flag=True, help="Even if other instances are composed of it.")
@_wait
@_timeout
@service_options()
@output_option
def delete(
    given: tuple[str, ...],
    everything: bool,
    yes: bool,
    force: bool,
    wait: bool,
    timeout: float,
    connection: Connection,
    output: Output,
) -> int:
    """Dispose of instances and everything that was created for them. Asks first if there are several."""
    if everything == bool(given):
        raise click.UsageError("Give either the instances or --all.")
    with connection.open() as manager:
        named = (instance_at(manager, each) for each in given)
        paths = [each.location for each in instances(manager)] if everything else list(named)
        if everything or len(paths) > 1:
            if paths:
                confirm(", ".join(paths), yes=yes)
            found = delete_all(manager, paths, force=force, timeout=timeout if wait else None)
            output.rows(found, ["path", "state", "error"], empty="there are no instances")
            return Status.FAILED if any(each["state"] == "failed" for each in found) else Status.DONE
        (path,) = paths
        delete_one(manager, path, force=force)
        if wait:
            if await_settled(manager, path, timeout=timeout) is not None:
                raise CommandError(f"{path} still exists")
            output.line(f"{path} is gone", path=path, state="gone")
        else:
            output.line(f"{path} is being disposed of", path=path, state="destroy")
    return Status.DONE


@instance.command()
@_name
@click.option("--node", help="A node's output instead of the orchestrator's log, such as web.0; see `instance show`.")
@click.option("--stack", help="Name of the node's stack, if several have such a node.")
@click.option("--region", help="Region of the node's stack, if several have such a node.")
@click.option("--follow", "-f", "following", is_flag=True, help="Follow the log until Ctrl-C.")
@service_options("operator", unless={"node": "tenant"})
def logs(
    name: str, node: str | None, stack: str | None, region: str | None, following: bool, connection: Connection
) -> None:
    """Print the log of an instance's orchestrator, or the output of one of its nodes, from the cloud controller.

    The orchestrator's log needs the role operator or provider; a node's output is also for the instance's tenant.
    """
    if node is None and (stack or region):
        raise CommandError("--stack and --region choose a node's stack; give --node", status=Status.USAGE)
    chosen = {key: value for key, value in (("node", node), ("stack", stack), ("region", region)) if value}
    with connection.open() as manager:
        identifier = instance_id(manager, name)
    with connection.module("deploy") as module:
        for piece in _log(module, identifier, following=following, chosen=chosen):
            click.echo(for_terminal(piece) if sys.stdout.isatty() else piece, nl=False)


def _lifecycle_command(term: str, help_text: str) -> click.Command:
    """Add a command that invokes an action which every instance has."""

    @instance.command(term, help=help_text)
    @_name
    @_wait
    @_timeout
    @service_options()
    @output_option
    def run(name: str, wait: bool, timeout: float, connection: Connection, output: Output) -> None:
        _act(connection, name, term, {}, wait=wait, timeout=timeout, output=output)

    return run


stop: Final = _lifecycle_command("stop", "Stop an instance, keeping its resources.")
start: Final = _lifecycle_command("start", "Start a stopped instance.")


@instance.command()
@_name
@click.option("--present-bundle", is_flag=True, help="Keep the instance's bundle if another one is published by now.")
@_wait
@_timeout
@service_options()
@output_option
def retry(name: str, present_bundle: bool, wait: bool, timeout: float, connection: Connection, output: Output) -> None:
    """Try a failed phase again, with the bundle that the service has published now; or repair what is not healthy."""
    values = {wire.RETRY_BUNDLE: "present"} if present_bundle else {}
    _act(connection, name, "retry", values, wait=wait, timeout=timeout, output=output)


@instance.command()
@_name
@click.argument("action", shell_complete=completion.actions)
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...", shell_complete=completion.attributes)
@_timeout
@service_options()
@output_option
def act(
    name: str, action: str, values: tuple[str, ...], timeout: float, connection: Connection, output: Output
) -> None:
    """Invoke an action that the service declares. Values are given as for create."""
    _act(connection, name, action, values, wait=False, timeout=timeout, output=output)


def _act(
    connection: Connection,
    name: str,
    term: str,
    values: Sequence[str] | Mapping[str, Any],
    *,
    wait: bool,
    timeout: float,
    output: Output,
) -> None:
    """Invoke an action. `values` is a mapping for one that every instance has, whose declaration is known."""
    with connection.open() as manager:
        path = instance_at(manager, name)
        action = action_of(manager.get(path), term)
        if isinstance(values, Mapping):
            attributes = dict(values)
        else:
            declared = next((each for each in manager.categories() if each.type_id == action), None)
            attributes = read_values(values, declared)
            if declared is not None:
                ask_missing(attributes, declared)
        manager.act(path, action, attributes)
        if wait:
            await_settled(manager, path, timeout=timeout)
        _show(manager, path, output)


def _log(
    module: client.Client, identifier: str, *, following: bool, chosen: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    """Yield pieces of an orchestrator's log, or of the chosen node's output.

    Each response names the next position, so no piece is lost or repeated.
    """
    position = "0"
    more = {"follow": "1"} if following else {}
    # A piece may end within a multi-byte character.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        query = urlencode({"since": position, **chosen, **more})
        path = f"{deploy.application_path(identifier)}/logs?{query}"
        asked = time.monotonic()
        piece = module.download(path, accept="text/plain")
        position = piece.headers.get(deploy.LOG_NEXT.lower(), position)
        if piece.body:
            yield decoder.decode(piece.body)
        elif not following:
            return
        elif time.monotonic() - asked < _LOG_PAUSE:
            # The service did not wait, because too many clients follow logs.
            time.sleep(_LOG_PAUSE)
