"""Polls an instance until it has settled. Requests carry its etag, so polling an unchanged instance is cheap."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Final

import click

from archelon_api import service_manager as wire
from archelon_core.backoff import Backoff
from occi_service import client

from .errors import CommandError, Status
from .output import for_terminal

#: States that an instance stays in until the next request.
SETTLED: Final = ("active", "inactive", "fail")
#: Seconds between two polls while nothing changes.
_PAUSES: Final = Backoff(0.1, longest=1.0, factor=1.3)


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """A state of an instance; `entity` is None if it is gone."""

    state: str
    message: str
    entity: client.Entity | None


def follow(service_manager: client.Client, path: str, *, timeout: float | None = None) -> Iterator[Observation]:
    """Poll an instance and yield its first state and every change, until it is gone.

    Raises:
        CommandError: `timeout` seconds have passed.
        client.ClientError: the service manager cannot be called, despite the client's retries.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    etag: str | None = None
    previous = ("", "")
    pauses = iter(_PAUSES)
    while True:
        try:
            entity = service_manager.get(path) if etag is None else service_manager.get(path, etag=etag)
        except client.NotFoundError:
            yield Observation("gone", "", None)
            return
        if entity is not None:
            etag = entity.etag
            now = str(entity.attributes.get(wire.STATE)), str(entity.attributes.get(wire.STATE_MESSAGE) or "")
            if now != previous:
                yield Observation(*now, entity)
            previous, pauses = now, iter(_PAUSES)
        if deadline is not None and time.monotonic() > deadline:
            raise CommandError(
                f"{path} is still in {previous[0]} after {timeout:g} s{_because(previous[1])}; it continues: see "
                "`archelon instance watch`",
                status=Status.TIMED_OUT,
            )
        time.sleep(next(pauses))


def await_settled(service_manager: client.Client, path: str, *, timeout: float) -> client.Entity | None:
    """Wait until an instance has settled, with progress on standard error; returns None if it is gone.

    A request changes the state before its response, so the first poll does not see the earlier state. Raises CommandError if the
    instance fails, with the reason, or the wait times out.
    """
    begun = time.monotonic()
    for observation in follow(service_manager, path, timeout=timeout):
        _progress(f"{time.monotonic() - begun:6.1f} s  {observation.state}{_because(observation.message)}")
        if observation.entity is None:
            return None
        if observation.state == "fail":
            raise CommandError(f"{path} failed{_because(observation.message)}; see `archelon instance events`")
        if observation.state in SETTLED:
            return observation.entity
    return None


def _progress(line: str) -> None:
    click.echo(click.style(line, dim=True) if sys.stderr.isatty() else line, err=True)


def _because(message: str) -> str:
    return f": {for_terminal(message)}" if message else ""
