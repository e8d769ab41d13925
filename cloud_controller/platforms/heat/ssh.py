"""Runs commands and writes files over SSH, on a server with a known host key.

Only the host key authenticates the server, so a configuration without one is refused, and the user's own SSH configuration,
agent and known hosts are ignored. Output is limited, since the server is the tenant's.
"""

from __future__ import annotations

import asyncio
import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncssh

from ..interface import Configured, ProvisionError

_PARTS: Final = ("user", "key", "host_keys", "port", "files", "command", "timeout")
_SHOWN: Final = 4096
#: Bytes of output after which a command is terminated.
_MOST: Final = 1 << 20
_LONGEST: Final = 60.0
_CONNECT: Final = 10.0


@dataclass(frozen=True)
class SshTask:
    """Files to write and a command to run on a server.

    Args:
        key: the private key. host_keys: accepted host keys.
        files: content by absolute path. command: argument list, run after the files are written.
        timeout: seconds in total.
    """

    user: str
    key: asyncssh.SSHKey = field(repr=False)
    host_keys: Sequence[asyncssh.SSHKey]
    port: int
    files: Mapping[str, str] = field(repr=False)
    command: Sequence[str] = field(repr=False)
    timeout: float


def parse_task(content: Mapping[str, Any]) -> SshTask:
    """Parse a configuration's content. Raises ProvisionError, without values in its text."""
    unknown = sorted(str(each)[:40] for each in content.keys() - set(_PARTS))
    if unknown:
        raise ProvisionError(f"unknown parameter of ssh: {', '.join(unknown)}; expected one of {', '.join(_PARTS)}")
    user, port, timeout = content.get("user"), content.get("port", 22), content.get("timeout", _LONGEST)
    if not isinstance(user, str) or not user:
        raise ProvisionError("ssh needs a user; name one of the server's image")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ProvisionError("the port must be a number from 1 to 65535")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST:
        raise ProvisionError(f"the timeout must be a number of seconds, at most {_LONGEST:g}")
    command, files = content.get("command", []), content.get("files", {})
    if not isinstance(command, list) or not all(isinstance(each, str) for each in command):
        raise ProvisionError("the command must be a list of texts, program first; it is quoted for the server's shell")
    if not isinstance(files, dict) or not all(isinstance(each, str) for each in files.values()):
        raise ProvisionError("files must be an object of paths and texts")
    for path in files:
        if not path.startswith("/") or "\0" in path:
            raise ProvisionError(f"the file {path[:60]!r} needs an absolute path")
    keys = content.get("host_keys")
    if not isinstance(keys, list) or not keys:
        raise ProvisionError(
            "host_keys must be a list of the server's public keys, at least one; set one in its cloud-init"
        )
    try:
        known = [asyncssh.import_public_key(str(each)) for each in keys]
    except asyncssh.KeyImportError:
        raise ProvisionError("one of host_keys is not a public key; write it as `ssh-ed25519 AAAA…`") from None
    try:
        key = asyncssh.import_private_key(str(content.get("key", "")))
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        raise ProvisionError("key is not a private key without a passphrase") from None
    return SshTask(user, key, known, port, files, command, float(timeout))


def run(task: SshTask, address: str) -> Configured:
    """Carry out the task and return the result, `waiting` while the server does not respond. Raises ProvisionError."""
    return asyncio.run(_run(task, address))


async def _run(task: SshTask, address: str) -> Configured:
    try:
        async with asyncio.timeout(task.timeout):
            return await _connected(task, address)
    except asyncssh.HostKeyNotVerifiable:
        raise ProvisionError(
            f"{address} has a different host key than those given; it may be another machine"
        ) from None
    except asyncssh.PermissionDenied:
        return Configured("failed", f"{address} refuses the key for {task.user}")
    except TimeoutError:
        return Configured("failed", f"{address} did not finish within {task.timeout:g} s")
    except (OSError, asyncssh.Error) as problem:
        # A server that is booting does not listen yet.
        return Configured("waiting", f"{address} does not respond: {type(problem).__name__}")


async def _connected(task: SshTask, address: str) -> Configured:
    connection = await asyncssh.connect(
        address,
        task.port,
        username=task.user,
        client_keys=[task.key],
        known_hosts=(list(task.host_keys), [], []),
        config=None,
        agent_path=None,
        preferred_auth="publickey",
        connect_timeout=_CONNECT,
        login_timeout=_CONNECT,
    )
    try:
        for path, text in task.files.items():
            folder, place = shlex.quote(posixpath.dirname(path)), shlex.quote(path)
            status, output = await _command(connection, f"umask 077 && mkdir -p {folder} && cat > {place}", text)
            if status:
                return Configured("failed", f"a file cannot be written: {output}")
        if not task.command:
            return Configured("done", "")
        status, output = await _command(connection, shlex.join(task.command), "")
    finally:
        # A close waits for the server, which may wait for the command beyond the timeout.
        connection.abort()
    if status:
        return Configured("failed", f"the command failed with status {status}: {output}")
    return Configured("done", output)


async def _command(connection: asyncssh.SSHClientConnection, command: str, text: str) -> tuple[int, str]:
    """Run a shell command; return its status and the start of its output."""
    process = await connection.create_process(command, stderr=asyncssh.STDOUT, encoding=None)
    process.stdin.write(text.encode())
    process.stdin.write_eof()
    shown, taken = b"", 0
    while chunk := await process.stdout.read(1 << 14):
        shown, taken = (shown + chunk)[:_SHOWN], taken + len(chunk)
        if taken > _MOST:
            return -1, f"more than {_MOST} bytes of output"
    await process.wait(check=False)
    status = process.exit_status
    # A process killed by a signal has no status.
    return -1 if status is None else status, shown.decode("utf-8", "replace")
