"""Runs long computations in a child process, where they do not delay other threads.

A computing thread holds Python's interpreter lock, and each other thread of its process waits some milliseconds for it whenever
it returns from the database. The child is a process of lower priority with limits on memory and time. Unlike a template
(`templates.text`) a document is data that our own code reads, so one child serves documents of all tenants in sequence: it starts
on first use, exits with its parent, and is replaced when it was killed.

Requests and results are JSON, each message after its length. The child has an empty environment: no setting, no secret.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from .transactions import forbid_in_transaction

_LENGTH: Final = 8
#: Limit on a result, in bytes.
_RESULT_LIMIT: Final = 8 << 20
_PIECE: Final = 64 << 10


class ChildError(Exception):
    """The function did not finish: it took too long, or too much memory. The text says which."""


class Child:
    """A child process for function calls. Threads share one; their calls run one at a time.

    Args:
        seconds: wall-clock time for a call, not counting the wait for other calls.
        memory: bytes of address space, including the interpreter.
        clock: seconds, monotonic.
    """

    def __init__(
        self, *, seconds: float = 10.0, memory: int = 512 << 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._memory = memory
        self._clock = clock
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function in the child and return its result.

        Args:
            function: `module:name`, of our own code.
            arguments: JSON values, as is the result.

        Raises:
            ChildError: the function did not finish. The next call starts another child.
        """
        forbid_in_transaction("work of a child process")
        request = json.dumps([function, arguments]).encode("ascii")
        with self._lock:
            process = self._running_process()
            try:
                result = self._exchange(process, request)
            except BaseException:
                self._end()
                raise
        return json.loads(result)

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(  # noqa: S603 - a fixed command; untrusted data goes through standard input
                [sys.executable, "-B", "-m", __name__, str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONPATH": os.pathsep.join([each for each in sys.path if each])},
                cwd="/",
                start_new_session=True,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = self._clock() + self._seconds
        try:
            left = memoryview(len(request).to_bytes(_LENGTH, "big") + request)
            while left:
                self._wait(process.stdin, select.POLLOUT, deadline)
                left = left[os.write(process.stdin.fileno(), left[:_PIECE]) :]
            length = int.from_bytes(self._read(process.stdout, _LENGTH, deadline), "big")
            if length > _RESULT_LIMIT:
                raise ChildError(f"the result is larger than {_RESULT_LIMIT} bytes")
            return self._read(process.stdout, length, deadline)
        except BrokenPipeError:
            raise self._exited() from None

    def _read(self, stream: Any, size: int, deadline: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait(stream, select.POLLIN, deadline)
            piece = os.read(stream.fileno(), min(size - len(found), _PIECE))
            if not piece:
                raise self._exited()
            found += piece
        return bytes(found)

    def _wait(self, stream: Any, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(stream, event)
        remaining = deadline - self._clock()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            raise ChildError(f"it takes longer than {self._seconds:g} s")

    def _exited(self) -> ChildError:
        return ChildError(f"it exited, or takes more than {self._memory >> 20} MiB of memory")


def main(memory: int) -> None:
    """Serve the parent until it closes standard input."""
    for which, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (limit, limit))
    os.nice(5)
    requests, results = sys.stdin.buffer, sys.stdout.buffer
    while len(head := requests.read(_LENGTH)) == _LENGTH:
        function, arguments = json.loads(requests.read(int.from_bytes(head, "big")))
        module, _, name = function.partition(":")
        _send(results, getattr(importlib.import_module(module), name)(*arguments))


def _send(stream: BinaryIO, value: Any) -> None:
    message = json.dumps(value).encode("ascii")
    stream.write(len(message).to_bytes(_LENGTH, "big") + message)
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
