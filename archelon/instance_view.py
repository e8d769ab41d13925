"""What `archelon instance` shows: lists, one instance, its changes and its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from archelon_api import names
from archelon_api import service_manager as wire
from occi_service import client

from . import completion
from .connection import Connection, service_options
from .errors import CommandError, Status
from .follow import follow, watch_rows
from .lookup import instance_at, instances, record_of, service_named
from .output import Output, for_terminal, output_option
from .values import is_secret

_PHASES: Final = names.attribute("record.phases")
_HEALTH: Final = names.attribute("record.health")
_AUDIT: Final = names.attribute("record.audit")
_EVENT: Final = ("start", "phase", "generation", "duration", "outcome", "message")
_LISTED: Final = ("path", "state", "health", "message", "reason", "title")
_LISTED_WIDE: Final = ("since", "service", "id", "region", "generation", "version")
_WATCHED: Final = ("state", "message", "health", "reason", "since")
_EMPTY: Final = "no instances; order one with `archelon instance create`"

name_argument = click.argument("name", metavar="INSTANCE", shell_complete=completion.instances)


@click.command("list")
@click.option("--service", help="Only instances of this service.", shell_complete=completion.services)
@click.option("--in-state", type=click.Choice(wire.STATES), help="Only those in this state.")
@click.option("--health", type=click.Choice(wire.HEALTHS), help="Only those with this health.")
@click.option("--region", help="Only those that were ordered for this region.")
@click.option(
    "--attribute", "given", multiple=True, metavar="NAME=VALUE", help="Only those with this value; repeatable."
)
@click.option("--watch", is_flag=True, help="Print changes as they happen, until Ctrl-C.")
@service_options()
@output_option
def list_instances(
    service: str | None,
    in_state: str | None,
    health: str | None,
    region: str | None,
    given: tuple[str, ...],
    watch: bool,
    connection: Connection,
    output: Output,
) -> None:
    """List your instances."""
    named = {wire.STATE: in_state, wire.HEALTH: health, names.REGION: region}
    wanted = _filters(given) | {name: value for name, value in named.items() if value is not None}
    with connection.open() as manager:

        def fetch() -> list[dict[str, Any]]:
            return [summary(entity) for entity in instances(manager, service=service, attributes=wanted)]

        if watch:
            if service is not None:
                service_named(manager, service)
            watch_rows(fetch, output, _LISTED, wide=_LISTED_WIDE, key=("path",), empty=_EMPTY)
        rows = fetch()
        if not rows and service is not None:
            # Raises an error if there is no such service.
            service_named(manager, service)
    output.rows(rows, _LISTED, wide=_LISTED_WIDE, empty="no such instances" if wanted or service else _EMPTY)


def _filters(given: Sequence[str]) -> dict[str, str]:
    """Return attributes to filter by; the service manager compares values as text."""
    found = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not separator or not name:
            raise CommandError(f"{each!r} is not name=value", status=Status.USAGE)
        found[name] = value
    return found


@click.command()
@name_argument
@service_options()
@output_option
def show(name: str, connection: Connection, output: Output) -> None:
    """Show an instance: its state, health, attributes, actions and links."""
    with connection.open() as manager:
        show_instance(manager, instance_at(manager, name), output)


@click.command()
@name_argument
@service_options()
@output_option
def describe(name: str, connection: Connection, output: Output) -> None:
    """Show everything about an instance: what `show` and `events` show, and its resources."""
    with connection.open() as manager:
        entity = manager.get(instance_at(manager, name))
        try:
            happened = _merged(_history(manager.get(f"{wire.RECORD.location}{entity.attributes.get(names.INSTANCE)}")))
        except client.NotFoundError:
            # The instance is older than its service manager's records.
            happened = []
        shown = _fields(manager, entity, links=False) if output.for_people else {}
    if not output.for_people:
        output.fields({**_document(entity), "events": happened})
        return
    Output().fields(shown)
    tables: tuple[tuple[str, Sequence[Mapping[str, Any]], Sequence[str]], ...] = (
        ("resources", [_shown_link(each) for each in entity.links], ("title", "kind", "state", "target")),
        ("events", happened, _EVENT),
    )
    for title, rows, columns in tables:
        click.echo(f"\n{title}:{'' if rows else ' none'}")
        if rows:
            output.lines(rows, columns, header=True)


@click.command()
@name_argument
@click.option("--timeout", type=click.FloatRange(min=0.1), help="Seconds; by default, no limit.")
@service_options()
@output_option
def watch(name: str, timeout: float | None, connection: Connection, output: Output) -> None:
    """Print every change of an instance's state or health until it is gone, or Ctrl-C. As JSON, one document per line."""
    with connection.open() as manager:
        path = instance_at(manager, name)
        for seen in follow(manager, path, timeout=timeout):
            if output.for_people:
                click.echo(f"{seen.state:<12} {for_terminal(seen.line())}".rstrip())
                continue
            row = {"path": path, **{name: getattr(seen, name) for name in _WATCHED}}
            if output.as_json:
                output.event(row)
            else:
                output.lines([row], output.columns or _WATCHED, header=False)


@click.command()
@name_argument
@service_options()
@output_option
def events(name: str, connection: Connection, output: Output) -> None:
    """Show an instance's history: its phases, its health and, after its end, what was removed."""
    with connection.open() as manager:
        history = _history(record_of(manager, name))
    if output.as_json and not output.columns:
        output.document(history)
        return
    output.rows(_merged(history), _EVENT, empty="no phases yet")
    if history["removed"] and output.for_people:
        click.echo("removed:")
        for each in history["removed"]:
            words = each if isinstance(each, str) else " ".join([str(part) for part in each.values()])
            click.echo(f"  {for_terminal(words)}")


def _history(record: client.Entity) -> dict[str, Any]:
    found = {"phases": _PHASES, "health": _HEALTH, "removed": _AUDIT}
    return {key: record.attributes.get(name) or [] for key, name in found.items()}


def _merged(history: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return phases and changes of health in the order of time. A change of health is shown as a phase of that name."""
    health = [
        {"start": each.get("time"), "phase": "health", "outcome": each.get("health"), "message": each.get("message")}
        for each in history.get("health", ())
    ]
    # The times have one form, so they sort as text.
    return sorted([*history.get("phases", ()), *health], key=lambda each: str(each.get("start") or ""))


def show_instance(manager: client.Client, path: str, output: Output) -> None:
    """Print an instance."""
    entity = manager.get(path)
    if output.columns:
        output.fields({**entity.attributes, **_document(entity)})
    elif output.as_json:
        output.document(_document(entity))
    else:
        output.fields(_fields(manager, entity, links=True))


def summary(entity: client.Entity) -> dict[str, Any]:
    """Return what a list shows of an instance."""
    given = entity.attributes.get
    return {
        "path": entity.location,
        "id": given(names.INSTANCE),
        "service": entity.kind.rpartition("#")[2],
        "title": entity.title,
        "state": given(wire.STATE),
        "message": given(wire.STATE_MESSAGE),
        "health": given(wire.HEALTH),
        "reason": given(wire.HEALTH_MESSAGE),
        "since": given(wire.HEALTH_SINCE),
        "region": given(names.REGION),
        "generation": given(names.GENERATION),
        "version": given(wire.BUNDLE_VERSION),
    }


def _document(entity: client.Entity) -> dict[str, Any]:
    links = [_link_summary(each) for each in entity.links]
    return {**summary(entity), "attributes": dict(entity.attributes), "links": links, "actions": list(entity.actions)}


def _fields(manager: client.Client, entity: client.Entity, *, links: bool) -> dict[str, Any]:
    """Return an instance's fields for people, each once, without its secrets: others may see the terminal."""
    summarized = (
        *(wire.STATE, wire.STATE_MESSAGE, wire.HEALTH, wire.HEALTH_MESSAGE, wire.HEALTH_SINCE),
        *(names.INSTANCE, names.REGION, names.GENERATION, wire.BUNDLE_VERSION),
    )
    declared = service_named(manager, entity.kind).attributes
    own = {
        name: f"… (-c {name} prints it)" if is_secret(declared.get(name)) else value
        for name, value in entity.attributes.items()
        if name not in summarized
    }
    targets = [f"{each.title or ''} {each.target}".strip() for each in entity.links]
    return {
        **summary(entity),
        "actions": ", ".join([each.rpartition("#")[2] for each in entity.actions]),
        **dict(sorted(own.items())),
        **({"dependencies and resources": "\n".join(targets)} if links else {}),
    }


def _link_summary(link: client.Entity) -> dict[str, Any]:
    found = {"kind": link.kind, "target": link.target, "title": link.title}
    more = {
        "target_kind": link.target_kind,
        **{name.rpartition(".")[2]: link.attributes[name] for name in link.attributes},
    }
    return found | {name: value for name, value in more.items() if value is not None}


def _shown_link(link: client.Entity) -> dict[str, Any]:
    """Return a link for people: by the type of what it leads to."""
    found = _link_summary(link)
    kind = str(found.get("type") or found.get("target_kind") or link.kind)
    return {**found, "kind": kind.rpartition("#")[2]}
