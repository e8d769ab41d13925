"""Configures process nodes: writes files to their directory, then runs a command there.

Content: `{"files": {path: text}, "command": [program, argument, …], "environment": {name: value}, "timeout": seconds}`; each
part is optional. The command carries the node's marker, so it ends with the node. It must be idempotent: it runs again if the
worker is killed before it reports the result.
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
from . import processes
from .launcher import Launcher
from .orders import LaunchError, ProcessState, Running

#: Characters that arguments and variables cannot contain.
_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")
_PARTS: Final = ("files", "command", "environment", "timeout")
_SHOWN: Final = 4096
_LONGEST: Final = 60.0


class LocalConfigures:
    """Configures processes of a launcher."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def validate(self, order: ConfigurationOrder) -> None:
        """Check kind and content. Raises ProvisionError."""
        if order.kind != "process":
            raise ProvisionError(f"{order.kind!r} is not available on this platform; use the kind 'process'")
        unknown = sorted(set(order.content) - set(_PARTS))
        if unknown:
            raise ProvisionError(f"unknown parameter {unknown[0][:60]!r}; expected one of {', '.join(_PARTS)}")
        command = order.content.get("command", [])
        if not isinstance(command, list) or not all(
            isinstance(each, str) and not _UNUSABLE.search(each) for each in command
        ):
            raise ProvisionError("the command must be a list of texts, program first; no shell interprets it")
        for part in ("files", "environment"):
            given = order.content.get(part, {})
            if not isinstance(given, dict) or not all(isinstance(each, str) for each in given.values()):
                raise ProvisionError(f"{part} must be an object of names and texts")
        for name, value in order.content.get("environment", {}).items():
            if not name or "=" in name or _UNUSABLE.search(name + value):
                raise ProvisionError(
                    f"the variable {name[:60]!r} is invalid; its name must not be empty or contain '=', "
                    "and its value no NUL or surrogate"
                )
        for path in order.content.get("files", {}):
            if Path(path).is_absolute() or ".." in Path(path).parts or "\0" in path or not path:
                raise ProvisionError(f"the file {path[:60]!r} leaves the node's directory; use a path inside")
        timeout = order.content.get("timeout", _LONGEST)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST:
            raise ProvisionError(f"the timeout must be a number of seconds, at most {_LONGEST:g}")

    def configure(self, order: ConfigurationOrder) -> Configured:
        """Configure every running instance of the node. Raises ProvisionError."""
        self.validate(order)
        nodes = [
            process
            for process in self._launcher.find(instance=order.instance)
            if process.notes.get("stack") == order.stack and process.notes.get("node") == order.node
        ]
        if not nodes:
            return Configured("failed", f"the stack has no node {order.node!r}")
        if any(process.state is not ProcessState.RUNNING for process in nodes):
            return Configured("waiting", "waiting for its node")
        results = []
        for process in nodes:
            outcome = self._configure(process, order.content)
            results.append(outcome.result)
            if outcome.state == "waiting":
                return outcome
            if outcome.state == "failed":
                return Configured("failed", f"{process.name.process}: {outcome.result}")
        return Configured("done", "\n".join(results)[:_SHOWN])

    def remove(self, order: ConfigurationOrder) -> bool:
        """Return True; nothing is kept of a configuration."""
        return True

    def _configure(self, node: Running, content: Mapping[str, Any]) -> Configured:
        name = node.name
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
            with self._launcher.attached(name, command, environment) as spawn:
                status, output = _run(spawn, seconds=float(content.get("timeout", _LONGEST)))
        except LaunchError as problem:
            return Configured("waiting", f"waiting for its node: {problem}")
        except TimeoutError as problem:
            return Configured("failed", str(problem))
        except OSError as problem:
            return Configured("failed", f"the command cannot be run: {problem.strerror}")
        if status and not self._is_running(node):
            # What else runs in a node that has died is killed.
            return Configured("waiting", "waiting for its node, which has died")
        if status:
            return Configured("failed", f"the command failed with status {status}: {output}")
        return Configured("done", output)

    def _is_running(self, node: Running) -> bool:
        """Whether exactly this process of the node is running."""
        present = self._launcher.observe(node.name)
        return present is not None and present.pid == node.pid is not None and processes.read(node.pid) is not None


def _run(spawn: Spawn, *, seconds: float) -> tuple[int, str]:
    """Run a command; return its status and the start of its output. Its background processes continue.

    Raises:
        TimeoutError: the command timed out; its session was killed.
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
        stdout, exited = process.stdout.fileno(), os.pidfd_open(process.pid)
        try:
            os.set_blocking(stdout, False)
            output = _read(stdout, exited, until)
            if output is None:
                os.killpg(process.pid, signal.SIGKILL)
                raise TimeoutError(f"the command did not finish within {seconds:g} s")
        finally:
            os.close(exited)
        return process.wait(), output.decode("utf-8", "replace")


def _read(stdout: int, exited: int, until: float) -> bytes | None:
    """Read until the process exits; return the start of its output, or None after a timeout."""
    poll = select.poll()
    poll.register(stdout, select.POLLIN)
    poll.register(exited, select.POLLIN)
    output = b""
    while ready := dict(poll.poll(max(0.0, until - time.monotonic()) * 1000)):
        data: bytes | None = None
        if stdout in ready:
            with contextlib.suppress(BlockingIOError):
                data = os.read(stdout, 1 << 16)
            if data == b"":
                # All writers have closed the pipe; the process may still run.
                poll.unregister(stdout)
            output += (data or b"")[: _SHOWN - len(output)]
        if exited in ready and (not data or len(output) == _SHOWN):
            return output
        if data and time.monotonic() > until:
            break
    return None
