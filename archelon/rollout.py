"""`archelon rollout`: rolls of a service's instances to its published bundle, and `publish --roll`, which follows one."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from archelon_api import names
from archelon_api import service_manager as wire
from occi_service import client
from occi_service.model import type_id

from . import completion
from .connection import Connection, service_options
from .errors import CommandError, Status
from .follow import command, polled, show_progress
from .output import Output, output_option

#: States in which a roll goes on, or may.
_UNDER_WAY: Final = ("running", "paused")

_name = click.argument("name", metavar="SERVICE", shell_complete=completion.services)
_timeout = click.option("--timeout", type=click.FloatRange(min=0.1), help="Seconds to follow it; by default, no limit.")


@click.group()
def rollout() -> None:
    """Roll the instances of a service to its published bundle, one after another.

    SERVICE is its term or type. Failed and unhealthy instances are first. A roll continues without this command.
    """


@rollout.command()
@_name
@click.option("--wait/--no-wait", default=True, help="Follow the roll until it ends.")
@_timeout
@service_options("provider")
@output_option
def start(name: str, wait: bool, timeout: float | None, connection: Connection, output: Output) -> None:
    """Begin a roll. Exits with 1 if it ends and is not done."""
    with connection.open() as manager:
        entry = published_entry(manager, name)
        manager.act(entry.location, type_id(wire.ROLL))
        if not wait:
            _show(manager.get(entry.location), output)
            return
        ended = await_end(manager, entry.location, timeout=timeout)
        _show(ended, output)
        check_done(ended)


@rollout.command()
@_name
@click.option("--watch", "-w", is_flag=True, help="Follow the roll until it ends; exits with 1 if it is not done then.")
@_timeout
@service_options("provider")
@output_option
def status(name: str, watch: bool, timeout: float | None, connection: Connection, output: Output) -> None:
    """Show the roll of a service: its progress, the instance in progress, and what is left over, with reasons."""
    with connection.open() as manager:
        entry = published_entry(manager, name)
        if watch:
            entry = await_end(manager, entry.location, timeout=timeout)
    _show(entry, output)
    if watch:
        check_done(entry)


def _control(action: Any, help_text: str) -> click.Command:
    """Add a command that invokes an action of a roll."""

    @rollout.command(action.term, help=help_text)
    @_name
    @service_options("provider")
    @output_option
    def run(name: str, connection: Connection, output: Output) -> None:
        with connection.open() as manager:
            path = published_entry(manager, name).location
            manager.act(path, type_id(action))
            _show(manager.get(path), output)

    return run


pause: Final = _control(wire.PAUSE_ROLL, "Pause a roll: the instance in progress is finished, no further one begins.")
resume: Final = _control(wire.RESUME_ROLL, "Resume a paused roll.")
stop: Final = _control(
    wire.STOP_ROLL, "End a roll: the instance in progress is finished, the others keep their bundle."
)


def published_entry(manager: client.Client, name: str) -> client.Entity:
    """Return the published entry of the provider's service of this term or type. Raises CommandError."""
    for entry in manager.list(wire.PUBLISHED.location, attributes={names.attribute("published.state"): "published"}):
        if name in (_service(entry), _term(entry)):
            return entry
    raise CommandError(f"there is no published service {name!r} of yours", status=Status.NOT_FOUND)


def await_end(manager: client.Client, path: str, *, timeout: float | None = None) -> client.Entity:
    """Follow the roll of a published entry until it ends, with progress on standard error. Returns the entry.

    Raises:
        CommandError: `timeout` seconds have passed, or Ctrl-C was pressed; the roll continues.
        client.ClientError: the service manager cannot be called, despite the client's retries.
    """
    begun = time.monotonic()
    entry = manager.get(path)
    try:
        watch = command("rollout", "status", _term(entry), "--watch")
        for read in polled(manager, path, what="the roll", watch=watch):
            if read is not None:
                entry = read
                show_progress(f"{time.monotonic() - begun:6.1f} s  {_progress(entry)}")
                if _ended(entry):
                    break
            if timeout is not None and time.monotonic() - begun > timeout:
                raise CommandError(
                    f"the roll has not ended after {timeout:g} s; {_continues(entry)}", status=Status.TIMED_OUT
                )
        return entry
    except KeyboardInterrupt:
        raise CommandError(f"interrupted; {_continues(entry)}", status=Status.INTERRUPTED) from None


def check_done(entry: client.Entity) -> None:
    """Raise CommandError if a roll has ended and is not done."""
    if _ended(entry) and _state(entry) not in ("done", ""):
        message = entry.attributes.get(wire.ROLL_MESSAGE)
        raise CommandError(
            f"the roll of {_term(entry)} is {_state(entry)}{f': {message}' if message else ''}; "
            f"`archelon rollout status {_term(entry)}` lists what is left over"
        )


def _ended(entry: client.Entity) -> bool:
    return _state(entry) not in _UNDER_WAY and not entry.attributes.get(wire.ROLL_CURRENT)


def _continues(entry: client.Entity) -> str:
    term = _term(entry)
    return (
        f"the roll continues: `archelon rollout status {term} --watch` follows it, `archelon rollout pause {term}` pauses it, "
        f"`archelon rollout stop {term}` ends it"
    )


def _service(entry: client.Entity) -> str:
    return str(entry.attributes[names.SERVICE])


def _term(entry: client.Entity) -> str:
    return _service(entry).rpartition("#")[2]


def _state(entry: client.Entity) -> str:
    return str(entry.attributes.get(wire.ROLL_STATE) or "")


def _progress(entry: client.Entity) -> str:
    """Return a roll's progress on one line."""
    total, done, left = (entry.attributes.get(name) or 0 for name in (wire.ROLL_TOTAL, wire.ROLL_DONE, wire.ROLL_LEFT))
    current = entry.attributes.get(wire.ROLL_CURRENT)
    parts = [f"{done} of {total} updated"]
    parts += [f"{left} left over"] if left else []
    parts += [f"now {current['instance']}"] if current else []
    return f"{_state(entry) or 'never rolled'}: {', '.join(parts)}"


def _show(entry: client.Entity, output: Output) -> None:
    attributes = entry.attributes
    current = attributes.get(wire.ROLL_CURRENT)
    leftovers = attributes.get(wire.ROLL_LEFTOVERS) or []
    found = {
        "service": _service(entry),
        "version": attributes.get(wire.BUNDLE_VERSION),
        "digest": attributes.get(names.attribute("bundle.digest")),
        "entry": entry.location,
        "state": _state(entry) or None,
        "message": attributes.get(wire.ROLL_MESSAGE),
        "total": attributes.get(wire.ROLL_TOTAL),
        "done": attributes.get(wire.ROLL_DONE),
        "left": attributes.get(wire.ROLL_LEFT),
    }
    if output.as_json:
        output.document({**found, "current": current, "leftovers": leftovers})
        return
    output.fields(
        {
            "service": f"{_term(entry)} {found['version'] or ''}".strip(),
            "roll": _progress(entry),
            "message": found["message"],
        }
    )
    if leftovers:
        output.rows(leftovers, ["instance", "reason"], empty="")
        shown, left = len(leftovers), int(found["left"] or 0)
        if shown < left:
            click.echo(f"and {left - shown} more")
