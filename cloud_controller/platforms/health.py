"""Health checks of nodes, run concurrently on one event loop: no thread for each, and a limited number at once.

A check contacts only its own node: a port must be one of the node's, a URL must lead to one of them, and redirects are not
followed. Otherwise a description could probe this machine from inside.

`ping`: an ICMP echo needs a privilege and would always succeed, since every local node has this machine's address. A local node
passes if its process is alive; the cluster decides for a pod.

`mysqldbs`: we have no MySQL client. The check connects to the node's first port (or the one named `mysql`) and reads the server's
handshake (protocol version 10), so the server accepts logins. It does not verify that the database and the account exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from archelon_core.backoff import Backoff

#: Maximum concurrent checks.
_AT_ONCE = 32
#: Pauses between the checks of a node that is awaited: nothing reports that a process has begun to listen.
_PAUSES = Backoff(0.01, longest=0.1, factor=1.5)
#: Bytes of an answer in which its first line has to end.
_LONGEST_LINE = 65536


@dataclass(frozen=True)
class Spawn:
    """How to run a command: argument list, environment, directory, and inherited descriptors."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    directory: Path = Path("/")
    descriptors: tuple[int, ...] = ()


class CannotSpawnError(Exception):
    """A command cannot be run now; the text gives the reason, for users."""


def _unchanged(command: tuple[str, ...]) -> AbstractContextManager[Spawn]:
    return contextlib.nullcontext(Spawn(command))


@dataclass(frozen=True)
class Check:
    """The checks of one node, without references.

    Args:
        ports: the node's own, by name.
        address: of the node.
        asked_ports, urls, commands: as described. mysql: whether `mysqldbs` were given.
        shown: a URL's text in the description, for messages: substituted values may be secret.
        spawn: returns how to run a command with only the node's rights; raises CannotSpawnError.
        timeout: seconds for each single check.
    """

    ports: Mapping[str, int]
    address: str = "127.0.0.1"
    asked_ports: tuple[str, ...] = ()
    urls: tuple[str, ...] = field(default=(), repr=False)
    shown: Mapping[str, str] = field(default_factory=dict, repr=False)
    mysql: bool = False
    commands: tuple[tuple[str, ...], ...] = ()
    spawn: Callable[[tuple[str, ...]], AbstractContextManager[Spawn]] = field(default=_unchanged, repr=False)
    timeout: float = 5.0


def check_all(checks: Sequence[Check], wait: float = 0.0) -> list[str]:
    """Return what is wrong with each node; an empty text means healthy.

    Args:
        wait: seconds within which a check without commands is repeated until it passes.
    """
    if not any(check.asked_ports or check.urls or check.mysql or check.commands for check in checks):
        return ["" for _ in checks]
    return asyncio.run(_all(checks, wait))


async def _all(checks: Sequence[Check], wait: float) -> list[str]:
    limit = asyncio.Semaphore(_AT_ONCE)
    until = asyncio.get_running_loop().time() + wait

    async def one(check: Check) -> str:
        for pause in _PAUSES:
            async with limit:
                wrong = await check_one(check)
            if not wrong or check.commands or asyncio.get_running_loop().time() + pause >= until:
                break
            await asyncio.sleep(pause)
        return wrong

    return list(await asyncio.gather(*(one(check) for check in checks)))


async def check_one(check: Check) -> str:
    """Return the first thing that is wrong with a node; an empty text means healthy."""
    for asked in check.asked_ports:
        number = check.ports.get(asked) or (
            int(asked) if asked.isdigit() and int(asked) in check.ports.values() else None
        )
        if number is None:
            return f"port {asked} is not one of its own; expected one of {', '.join(check.ports) or 'none'}"
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
            return "mysqldbs require a port, and it has none"
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
        return f"{what}: no response within {seconds:g} s"
    except (OSError, EOFError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else type(problem).__name__
        return f"{what}: {reason}"


async def _answer(address: str, number: int, request: bytes, enough: Callable[[bytes], bool]) -> bytes:
    """Return the beginning of an answer. These are plain sockets: asyncio's streams take twice the processor time."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        await loop.sock_connect(connection, (address, number))
        await loop.sock_sendall(connection, request)
        answer = b""
        while not enough(answer) and (more := await loop.sock_recv(connection, 4096)):
            answer += more
    return answer


async def _answer_over_tls(address: str, number: int, request: bytes) -> bytes:
    # The check is about availability, not identity: the node is addressed by its own port.
    context = ssl._create_unverified_context()  # nosec  # noqa: S323
    reader, writer = await asyncio.open_connection(address, number, ssl=context)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.readline()
    except ValueError:
        return b""
    finally:
        # A close of TLS waits for the node, beyond the check's timeout.
        writer.transport.abort()


async def _port(address: str, number: int) -> str:
    await _answer(address, number, b"", lambda _: True)
    return ""


async def _url(url: str, check: Check, shown: str) -> str:
    try:
        url_parts = urlsplit(url)
        number = url_parts.port or {"http": 80, "https": 443}.get(url_parts.scheme)
    except ValueError:
        return f"{shown} is not a URL"
    if (
        url_parts.scheme not in ("http", "https")
        or url_parts.hostname not in _names(check.address)
        or number is None
        or number not in check.ports.values()
    ):
        return f"{shown} does not lead to one of its own ports; write http://${{self.address}}:${{self.port}}/"
    target = (url_parts.path or "/") + (f"?{url_parts.query}" if url_parts.query else "")
    if any(ord(character) <= 32 or ord(character) > 126 for character in target):
        return f"{shown} contains characters that are not allowed in a URL"
    request = f"GET {target} HTTP/1.1\r\nHost: {url_parts.netloc}\r\nConnection: close\r\n\r\n".encode()
    if url_parts.scheme == "https":
        answer = await _answer_over_tls(check.address, number, request)
    else:
        answer = await _answer(check.address, number, request, lambda got: b"\n" in got or len(got) > _LONGEST_LINE)
    words = answer.partition(b"\n")[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"{shown}: the response is not HTTP"
    status = int(words[1])
    return "" if 200 <= status < 400 else f"{shown}: status {status}"


def _names(address: str) -> tuple[str, ...]:
    return (address, "localhost") if address == "127.0.0.1" else (address,)


async def _mysql(address: str, number: int) -> str:
    # Packet: 3 bytes of length, 1 of sequence, then the protocol version (10), or 255 for an error.
    greeting = await _answer(address, number, b"", lambda got: len(got) >= 5)
    return "" if greeting[4:5] == b"\x0a" else "mysql: the server refuses or is not a MySQL server"


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
        return f"the check {command[0]!r} did not end within {check.timeout:g} s"
    finally:
        # Also if this check is cancelled.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return "" if status == 0 else f"the check {command[0]!r} ended with status {status}"
