"""Following an instance until it is where it shall be, by looks with its etag: an unchanged one costs next to nothing."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

import click

from archelon_api import service_manager as wire
from archelon_core.backoff import Backoff
from occi_service import client

from .errors import CommandError, Status

#: States that an instance stays in until somebody asks for something.
SETTLED: Final = ("active", "inactive", "fail")
#: Seconds between two polls while nothing changes.
_PAUSES: Final = Backoff(0.1, longest=1.0, factor=1.3)


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """An instance as it was seen to change; `entity` None: it is gone."""

    state: str
    message: str
    entity: client.Entity | None


@dataclasses.dataclass(frozen=True, slots=True)
class Moving:
    """Time, as tests may give it."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def follow(
    service_manager: client.Client,
    path: str,
    *,
    timeout: float | None = None,
    moving: Moving = Moving(),
) -> Iterator[Observation | None]:
    """Looks at an instance: one for each change of what it says, None for a look that saw none. Ends when it is gone.

    Raises:
        CommandError: `timeout` seconds are over.
        client.ClientError: the service manager cannot be asked. That it is away for a moment is waited for by the client.
    """
    until = None if timeout is None else moving.clock() + timeout
    etag: str | None = None
    said = ("", "")
    pauses = iter(_PAUSES)
    while True:
        try:
            entity = service_manager.get(path) if etag is None else service_manager.get(path, etag=etag)
        except client.NotFoundError:
            yield Observation("gone", "", None)
            return
        if entity is None:
            yield None
        else:
            etag = entity.etag
            now = str(entity.attributes.get(wire.STATE)), str(entity.attributes.get(wire.STATE_MESSAGE) or "")
            yield Observation(*now, entity) if now != said else None
            said, pauses = now, iter(_PAUSES)
        if until is not None and moving.clock() > until:
            raise CommandError(
                f"{path} is still in {said[0]} after {timeout:g} s{_because(said[1])}; it goes on: `archelon instance watch`",
                status=Status.TIMED_OUT,
            )
        moving.sleep(next(pauses))


def await_settled(service_manager: client.Client, path: str, *, timeout: float) -> client.Entity | None:
    """Wait, showing progress on standard error, until an instance has come to rest; None: it is gone.

    An order shows its state with its answer, so that no look after it can see the rest of before.

    Raises:
        CommandError: it failed, with its reason; or the time is over.
    """
    begun = time.monotonic()
    for look in follow(service_manager, path, timeout=timeout):
        if look is None:
            continue
        _progress(f"{time.monotonic() - begun:6.1f} s  {look.state}{_because(look.message)}")
        if look.entity is None:
            return None
        if look.state == "fail":
            raise CommandError(f"{path} failed{_because(look.message)}; `archelon instance events` shows how")
        if look.state in SETTLED:
            return look.entity
    return None


def _progress(line: str) -> None:
    click.echo(click.style(line, dim=True) if sys.stderr.isatty() else line, err=True)


def _because(message: str) -> str:
    return f": {message}" if message else ""
