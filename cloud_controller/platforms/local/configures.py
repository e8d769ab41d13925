"""Configures nodes that are processes: files into their directory, then a command there.

Content: `{"files": {path: text}, "command": [program, argument, …], "environment": {name: value}, "timeout": seconds}`; each
part may be left out. A command ends with its node: it carries the node's marker. It is run again where the worker was killed
before it had told what came of it, so it has to bear that.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..health import Spawn
from ..interface import ConfigurationOrder, Configured, ProvisionError
from .launcher import Launcher
from .orders import LaunchError, Name, State

#: What no argument and no variable can have.
_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")
_PARTS: Final = ("files", "command", "environment", "timeout")
_SHOWN: Final = 4096
_LONGEST: Final = 60.0


class LocalConfigures:
    """Configures processes of a launcher."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def validate(self, order: ConfigurationOrder) -> None:
        """Refuse kinds that this platform has not, and malformed content. Raises ProvisionError."""
        if order.kind != "process":
            raise ProvisionError(
                f"{order.kind!r} is not on this platform, whose nodes are processes; use the kind 'process'"
            )
        unknown = sorted(set(order.content) - set(_PARTS))
        if unknown:
            raise ProvisionError(f"the content has {unknown[0][:60]!r}; it takes {', '.join(_PARTS)}")
        command = order.content.get("command", [])
        if not isinstance(command, list) or not all(
            isinstance(each, str) and not _UNUSABLE.search(each) for each in command
        ):
            raise ProvisionError("the command is a list of texts, program first; no shell reads it")
        for part in ("files", "environment"):
            given = order.content.get(part, {})
            if not isinstance(given, dict) or not all(isinstance(each, str) for each in given.values()):
                raise ProvisionError(f"{part} is an object of names and texts")
        for name, value in order.content.get("environment", {}).items():
            if not name or "=" in name or _UNUSABLE.search(name + value):
                raise ProvisionError(
                    f"the variable {name[:60]!r} has no name, '=' in it, or in its value a NUL or half of a character; "
                    "correct it"
                )
        for path in order.content.get("files", {}):
            if Path(path).is_absolute() or ".." in Path(path).parts or "\0" in path or not path:
                raise ProvisionError(f"the file {path[:60]!r} leaves the node's directory; give a path inside")
        timeout = order.content.get("timeout", _LONGEST)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST:
            raise ProvisionError(f"the timeout is a number of seconds, at most {_LONGEST:g}")

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Carry it out on every running instance of the node. Raises ProvisionError."""
        self.validate(order)
        nodes = [
            process
            for process in self._launcher.find(instance=order.instance)
            if process.notes.get("stack") == order.stack and process.notes.get("node") == order.node
        ]
        if not nodes:
            return Configured("failed", f"the stack has no node {order.node!r}")
        if any(process.state is not State.RUNNING for process in nodes):
            return Configured("waiting", "waits for its node")
        told = []
        for process in nodes:
            outcome = self._one(process.name, order.content)
            told.append(outcome.result)
            if outcome.state == "waiting":
                return outcome
            if outcome.state == "failed":
                return Configured("failed", f"{process.name.process}: {outcome.result}")
        return Configured("done", "\n".join(told)[:_SHOWN])

    def remove(self, order: ConfigurationOrder) -> bool:
        """Nothing is kept of it."""
        return True

    def _one(self, name: Name, content: Mapping[str, Any]) -> Configured:
        try:
            for path, text in content.get("files", {}).items():
                self._launcher.write(name, path, text)
        except LaunchError as problem:
            return Configured("failed", str(problem))
        except OSError as problem:
            return Configured("failed", f"a file cannot be written: {problem.strerror}")
        command = content.get("command")
        if not command:
            return Configured("done", "")
        environment = {"PATH": os.defpath, **content.get("environment", {})}
        try:
            with self._launcher.beside(name, command, environment) as spawn:
                status, printed = _run(spawn, seconds=float(content.get("timeout", _LONGEST)))
        except LaunchError as problem:
            return Configured("waiting", f"waits for its node: {problem}")
        except TimeoutError as problem:
            return Configured("failed", str(problem))
        except OSError as problem:
            return Configured("failed", f"the command cannot be run: {problem.strerror}")
        if status:
            return Configured("failed", f"the command ended with status {status}: {printed}")
        return Configured("done", printed)


def _run(spawn: Spawn, *, seconds: float) -> tuple[int, str]:
    """Its status, and the beginning of what it printed; the rest is read and forgotten. What it leaves running goes on.

    Raises:
        TimeoutError: it did not end in time; it was killed, with all that is of its session.
        OSError: it cannot be started.
    """
    until = time.monotonic() + seconds
    with subprocess.Popen(  # noqa: S603 - an argument list, with the rights of the node
        spawn.command,
        cwd=spawn.directory,
        env=dict(spawn.environment),
        pass_fds=spawn.descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        output, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
        try:
            os.set_blocking(output, False)
            printed = _read(output, ended, until)
            if printed is None:
                os.killpg(process.pid, signal.SIGKILL)
                raise TimeoutError(f"the command did not end within {seconds:g} s")
        finally:
            os.close(ended)
        return process.wait(), printed.decode("utf-8", "replace")


def _read(output: int, ended: int, until: float) -> bytes | None:
    """The beginning of what comes until the process ends; None where the time is over before."""
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(ended, select.POLLIN)
    printed = b""
    while ready := dict(poll.poll(max(0.0, until - time.monotonic()) * 1000)):
        data: bytes | None = None
        if output in ready:
            with contextlib.suppress(BlockingIOError):
                data = os.read(output, 1 << 16)
            if data == b"":
                # Nobody writes there any more; whether the process goes on is another matter.
                poll.unregister(output)
            printed += (data or b"")[: _SHOWN - len(printed)]
        if ended in ready and (not data or len(printed) == _SHOWN):
            return printed
        if data and time.monotonic() > until:
            break
    return None
