"""Commands and files over SSH, on a server whose host key is known before.

The host key is the only thing that says which machine answers, so a configuration without one is refused, and nothing is asked of
the user's own SSH configuration, agent or known hosts. What a server prints is taken up to a limit: it is the tenant's machine.
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
#: Bytes of output after which a command is ended.
_MOST: Final = 1 << 20
_LONGEST: Final = 60.0
_CONNECT: Final = 10.0


@dataclass(frozen=True)
class Errand:
    """What to do on a server.

    Args:
        key: the private key. host_keys: the server may have any of these.
        files: content by absolute path. command: argument list, after the files.
        timeout: seconds for all of it.
    """

    user: str
    key: asyncssh.SSHKey = field(repr=False)
    host_keys: Sequence[asyncssh.SSHKey]
    port: int
    files: Mapping[str, str] = field(repr=False)
    command: Sequence[str] = field(repr=False)
    timeout: float


def errand_of(content: Mapping[str, Any]) -> Errand:
    """Read a configuration's content. Raises ProvisionError, whose text holds none of its values."""
    unknown = sorted(str(each)[:40] for each in content.keys() - set(_PARTS))
    if unknown:
        raise ProvisionError(f"ssh knows no {', '.join(unknown)}; it takes {', '.join(_PARTS)}")
    user, port, timeout = content.get("user"), content.get("port", 22), content.get("timeout", _LONGEST)
    if not isinstance(user, str) or not user:
        raise ProvisionError("ssh needs a user; name one that the server's image has")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ProvisionError("the port is a number from 1 to 65535")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST:
        raise ProvisionError(f"the timeout is a number of seconds, at most {_LONGEST:g}")
    command, files = content.get("command", []), content.get("files", {})
    if not isinstance(command, list) or not all(isinstance(each, str) for each in command):
        raise ProvisionError("the command is a list of texts, program first; it is quoted for the server's shell")
    if not isinstance(files, dict) or not all(isinstance(each, str) for each in files.values()):
        raise ProvisionError("files is an object of paths and texts")
    for path in files:
        if not path.startswith("/") or "\0" in path:
            raise ProvisionError(f"the file {path[:60]!r} has no absolute path; give one")
    keys = content.get("host_keys")
    if not isinstance(keys, list) or not keys:
        raise ProvisionError(
            "host_keys is a list of the server's public keys, one at least; put one into its cloud-init"
        )
    try:
        known = [asyncssh.import_public_key(str(each)) for each in keys]
    except asyncssh.KeyImportError:
        raise ProvisionError("one of host_keys is no public key; write it as `ssh-ed25519 AAAA…`") from None
    try:
        key = asyncssh.import_private_key(str(content.get("key", "")))
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        raise ProvisionError("key is no private key without a passphrase") from None
    return Errand(user, key, known, port, files, command, float(timeout))


def run(errand: Errand, address: str) -> Configured:
    """Do it, and tell what came of it: `waiting` while the server does not answer yet. Raises ProvisionError."""
    return asyncio.run(_run(errand, address))


async def _run(errand: Errand, address: str) -> Configured:
    try:
        async with asyncio.timeout(errand.timeout):
            return await _connected(errand, address)
    except asyncssh.HostKeyNotVerifiable:
        raise ProvisionError(f"{address} shows another host key than those given; it may be another machine") from None
    except asyncssh.PermissionDenied:
        return Configured("failed", f"{address} refuses the key for {errand.user}")
    except TimeoutError:
        return Configured("failed", f"{address} was not done within {errand.timeout:g} s")
    except (OSError, asyncssh.Error) as problem:
        # A server that boots does not listen yet.
        return Configured("waiting", f"{address} does not answer: {type(problem).__name__}")


async def _connected(errand: Errand, address: str) -> Configured:
    connection = await asyncssh.connect(
        address,
        errand.port,
        username=errand.user,
        client_keys=[errand.key],
        known_hosts=(list(errand.host_keys), [], []),
        config=None,
        agent_path=None,
        preferred_auth="publickey",
        connect_timeout=_CONNECT,
        login_timeout=_CONNECT,
    )
    async with connection:
        for path, text in errand.files.items():
            folder, place = shlex.quote(posixpath.dirname(path)), shlex.quote(path)
            status, said = await _command(connection, f"umask 077 && mkdir -p {folder} && cat > {place}", text)
            if status:
                return Configured("failed", f"a file cannot be written: {said}")
        if not errand.command:
            return Configured("done", "")
        status, said = await _command(connection, shlex.join(errand.command), "")
    if status:
        return Configured("failed", f"the command ended with status {status}: {said}")
    return Configured("done", said)


async def _command(connection: asyncssh.SSHClientConnection, command: str, text: str) -> tuple[int, str]:
    """Run a line of the server's shell; its status, and the beginning of what it printed."""
    process = await connection.create_process(command, stderr=asyncssh.STDOUT, encoding=None)
    async with process:
        process.stdin.write(text.encode())
        process.stdin.write_eof()
        shown, taken = b"", 0
        while chunk := await process.stdout.read(1 << 14):
            shown, taken = (shown + chunk)[:_SHOWN], taken + len(chunk)
            if taken > _MOST:
                return -1, f"more than {_MOST} bytes of output"
        await process.wait(check=False)
        status = process.exit_status
    # A process that a signal ended has no status.
    return -1 if status is None else status, shown.decode("utf-8", "replace")
