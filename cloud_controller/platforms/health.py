"""Health checks of nodes, carried out all at once on one event loop: no thread for each, and never more than so many open.

A check asks the node that it belongs to and nothing else: a port must be one of the node's own, a URL must lead to one of them
and is not followed when it redirects. Otherwise a description could look around on this machine with our eyes.

`ping`: an ICMP echo needs a privilege and would always be answered here, since every node has this machine's address. A local
node answers the ping when its process lives, and a pod is judged by its cluster.

`mysqldbs`: no MySQL client is among our dependencies. The check connects to the node's first port (or the one named `mysql`)
and reads the server's handshake (protocol version 10): the server is up and ready to log someone in. That the database and the
account exist is not proved by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

#: Checks under way at once.
_AT_ONCE = 32


@dataclass(frozen=True)
class Spawn:
    """How a command is run: argument list, environment, where, and the descriptors that it inherits."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    directory: Path = Path("/")
    descriptors: tuple[int, ...] = ()


class CannotSpawnError(Exception):
    """A command cannot be run now; the text says why, for people."""


def _as_it_is(command: tuple[str, ...]) -> AbstractContextManager[Spawn]:
    return contextlib.nullcontext(Spawn(command))


@dataclass(frozen=True)
class Check:
    """What to ask one node; every reference is filled in.

    Args:
        ports: the node's own, by name.
        address: where the node is.
        asked_ports, urls, commands: as described. mysql: whether `mysqldbs` were named.
        shown: for messages, what stands in the description for a URL, whose filled in parts may be secret.
        spawn: says how a command is run with the node's rights and no others; raises CannotSpawnError.
        timeout: seconds for each single question.
    """

    ports: Mapping[str, int]
    address: str = "127.0.0.1"
    asked_ports: tuple[str, ...] = ()
    urls: tuple[str, ...] = field(default=(), repr=False)
    shown: Mapping[str, str] = field(default_factory=dict, repr=False)
    mysql: bool = False
    commands: tuple[tuple[str, ...], ...] = ()
    spawn: Callable[[tuple[str, ...]], AbstractContextManager[Spawn]] = field(default=_as_it_is, repr=False)
    timeout: float = 5.0


def check_all(checks: Sequence[Check]) -> list[str]:
    """What is wrong with each node, in words; an empty text means healthy."""
    if not any(check.asked_ports or check.urls or check.mysql or check.commands for check in checks):
        return ["" for _ in checks]
    return asyncio.run(_all(checks))


async def _all(checks: Sequence[Check]) -> list[str]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(check: Check) -> str:
        async with places:
            return await _one(check)

    return list(await asyncio.gather(*(one(check) for check in checks)))


async def _one(check: Check) -> str:
    """The first thing that is wrong."""
    for asked in check.asked_ports:
        number = check.ports.get(asked) or (
            int(asked) if asked.isdigit() and int(asked) in check.ports.values() else None
        )
        if number is None:
            return f"port {asked} is none of its own; it has {', '.join(check.ports) or 'none'}"
        wrong = await _within(check.timeout, f"port {asked}", _port(check.address, number))
        if wrong:
            return wrong
    for url in check.urls:
        shown = check.shown.get(url, url)
        wrong = await _within(check.timeout, shown, _url(url, check, shown))
        if wrong:
            return wrong
    if check.mysql:
        number = check.ports.get("mysql") or next(iter(check.ports.values()), None)
        if number is None:
            return "mysqldbs are to be asked, and it has no port"
        wrong = await _within(check.timeout, "mysql", _mysql(check.address, number))
        if wrong:
            return wrong
    for command in check.commands:
        wrong = await _command(command, check)
        if wrong:
            return wrong
    return ""


async def _within(seconds: float, what: str, question: asyncio.Future[str] | object) -> str:
    try:
        async with asyncio.timeout(seconds):
            return str(await question)  # type: ignore[misc]
    except TimeoutError:
        return f"{what}: no answer within {seconds:g} s"
    except (OSError, EOFError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else type(problem).__name__
        return f"{what}: {reason}"


async def _port(address: str, number: int) -> str:
    _reader, writer = await asyncio.open_connection(address, number)
    await _close(writer)
    return ""


async def _url(url: str, check: Check, shown: str) -> str:
    try:
        parts = urlsplit(url)
        number = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return f"{shown} is no URL"
    if (
        parts.scheme not in ("http", "https")
        or parts.hostname not in _names(check.address)
        or number not in check.ports.values()
    ):
        return f"{shown} does not lead to one of its own ports; write http://${{self.address}}:${{self.port}}/"
    context = None
    if parts.scheme == "https":
        # Whether the node answers is asked, not who it is: it is found by its own port.
        context = ssl._create_unverified_context()  # nosec  # noqa: S323
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if any(ord(character) <= 32 or ord(character) > 126 for character in target):
        return f"{shown} has characters that a URL has not"
    reader, writer = await asyncio.open_connection(check.address, number, ssl=context)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        line = await reader.readline()
    except ValueError:
        return f"{shown}: the answer is no HTTP"
    finally:
        await _close(writer)
    words = line.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"{shown}: the answer is no HTTP"
    status = int(words[1])
    return "" if 200 <= status < 400 else f"{shown}: status {status}"


def _names(address: str) -> tuple[str, ...]:
    return (address, "localhost") if address == "127.0.0.1" else (address,)


async def _mysql(address: str, number: int) -> str:
    reader, writer = await asyncio.open_connection(address, number)
    try:
        # Packet: 3 bytes of length, 1 of sequence, then the protocol's version (10); 255 would begin an error.
        greeting = await reader.readexactly(5)
    finally:
        await _close(writer)
    return "" if greeting[4] == 10 else "mysql: the server refuses or is no MySQL server"


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _command(command: tuple[str, ...], check: Check) -> str:
    try:
        with check.spawn(command) as spawn:
            process = await asyncio.create_subprocess_exec(
                *spawn.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=spawn.directory,
                env=dict(spawn.environment),
                pass_fds=spawn.descriptors,
                start_new_session=True,
            )
    except CannotSpawnError as problem:
        return f"the check {command[0]!r} cannot start: {problem}"
    except OSError as problem:
        return f"the check {command[0]!r} cannot start: {problem.strerror}"
    try:
        async with asyncio.timeout(check.timeout):
            status = await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return f"the check {command[0]!r} did not end within {check.timeout:g} s"
    return "" if status == 0 else f"the check {command[0]!r} ended with status {status}"
