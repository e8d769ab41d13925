"""Polls an instance until it has settled. Requests carry its etag, so polling an unchanged instance is cheap."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn

import click

from archelon_api import service_manager as wire
from archelon_core.backoff import Backoff
from occi_service import client

from .connection import repeated_options
from .errors import CommandError, Status
from .output import Output, for_terminal, program_name

#: States that an instance stays in until the next request.
SETTLED: Final = ("active", "inactive", "fail")
#: Seconds between two polls while nothing changes.
_PAUSES: Final = Backoff(0.1, longest=1.0, factor=1.3)


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """State and health of an instance; `entity` is None if it is gone.

    Attributes:
        health: one of `wire.HEALTHS`; empty if it is not known.
        reason: why it is not healthy.
        since: since when it has this health, RFC 3339.
    """

    state: str
    message: str
    entity: client.Entity | None = dataclasses.field(compare=False)
    health: str = ""
    reason: str = ""
    since: str = ""

    @classmethod
    def of(cls, entity: client.Entity) -> Observation:
        """Return the state and health of an entity."""
        found = [
            str(entity.attributes.get(name) or "")
            for name in (wire.STATE, wire.STATE_MESSAGE, wire.HEALTH, wire.HEALTH_MESSAGE, wire.HEALTH_SINCE)
        ]
        return cls(found[0], found[1], entity, *found[2:])

    @property
    def healthy(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return self.health in ("", wire.HEALTHS[0])

    def line(self) -> str:
        """Return it for people, without the state: what it waits for, why it failed, or what is wrong with it."""
        health = "" if self.healthy else f"{self.health} since {self.since}{_because(self.reason)}"
        return "; ".join([part for part in (self.message, health) if part])


def follow(service_manager: client.Client, path: str, *, timeout: float | None = None) -> Iterator[Observation]:
    """Poll an instance and yield its first state and every change, until it is gone.

    Raises:
        CommandError: `timeout` seconds have passed.
        client.ClientError: the service manager cannot be called, despite the client's retries.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    previous: Observation | None = None
    watch = command("instance", "watch", path)
    try:
        for entity in polled(service_manager, path, what="the order", watch=watch):
            now = previous if entity is None else Observation.of(entity)
            assert now is not None
            if now != previous:
                yield now
            previous = now
            if deadline is not None and time.monotonic() > deadline:
                raise CommandError(
                    f"{path} is still in {now.state} after {timeout:g} s{_because(now.line())}; it continues: see `{watch}`",
                    status=Status.TIMED_OUT,
                )
    except client.NotFoundError:
        yield Observation("gone", "", None)


def polled(service_manager: client.Client, path: str, *, what: str, watch: str) -> Iterator[client.Entity | None]:
    """Poll an entity without end, at growing intervals while it does not change; yield it, or None if it is unchanged.

    Args:
        what: continues if the poll ends, in words. watch: the command that continues the poll.

    Raises:
        CommandError: the token has expired since the first response.
        client.ClientError: the service manager cannot be called, despite the client's retries.
    """
    etag: str | None = None
    answered = False
    pauses = iter(_PAUSES)
    while True:
        try:
            entity = service_manager.get(path) if etag is None else service_manager.get(path, etag=etag)
        except client.UnauthorizedError:
            if not answered:
                raise
            raise CommandError(
                f"the token has expired, so the wait for {path} ends; {what} continues. Set a new token "
                f"(ARCHELON_TOKEN, or the file of --token-file) and run `{watch}`",
                status=Status.TIMED_OUT,
            ) from None
        if entity is not None:
            etag, answered, pauses = entity.etag, True, iter(_PAUSES)
        yield entity
        time.sleep(next(pauses))


def watch_rows(
    fetch: Callable[[], list[dict[str, Any]]],
    output: Output,
    columns: Sequence[str],
    *,
    key: Sequence[str],
    empty: str,
    wide: Sequence[str] = (),
) -> NoReturn:
    """Print rows and their changes until Ctrl-C: the whole table on a terminal, otherwise each row that has changed.

    A row that is no longer there is printed once more, with the state `gone`.

    Args:
        fetch: returns the present rows.
        key: columns that identify a row.
        columns, wide, empty: see `Output.rows`.
    """
    previous: dict[tuple[Any, ...], dict[str, Any]] | None = None
    on_terminal = output.for_people and sys.stdout.isatty()
    pauses = iter(_PAUSES)
    while True:
        rows = fetch()
        now = {tuple([row[name] for name in key]): row for row in rows}
        if now != previous:
            pauses = iter(_PAUSES)
            if on_terminal:
                click.clear()
                output.rows(rows, columns, wide=wide, empty=empty)
            else:
                before = previous or {}
                changed = [row for name, row in now.items() if row != before.get(name)]
                gone = [{**row, "state": "gone"} for name, row in before.items() if name not in now]
                output.changes([*changed, *gone], columns, wide=wide, first=previous is None)
        previous = now
        time.sleep(next(pauses))


def command(*words: str) -> str:
    """Return a command over the connection of the present one, for a message."""
    return " ".join([program_name(), *words, *repeated_options()])


def await_settled(service_manager: client.Client, path: str, *, timeout: float) -> client.Entity | None:
    """Wait until an instance has settled, with progress on standard error; returns None if it is gone.

    A request changes the state before its response, so the first poll does not see the earlier state. Raises CommandError if the
    instance fails, with the reason, or the wait times out.
    """
    begun = time.monotonic()
    for observation in follow(service_manager, path, timeout=timeout):
        show_progress(f"{time.monotonic() - begun:6.1f} s  {observation.state}{_because(observation.line())}")
        if observation.entity is None:
            return None
        if observation.state == "fail":
            raise CommandError(
                f"{path} failed{_because(observation.message)}; see `{command('instance', 'events', path)}`"
            )
        if observation.state in SETTLED:
            return observation.entity
    return None


def show_progress(line: str) -> None:
    """Print a line about a wait on standard error."""
    click.echo(click.style(line, dim=True) if sys.stderr.isatty() else line, err=True)


def _because(message: str) -> str:
    return f": {for_terminal(message)}" if message else ""
