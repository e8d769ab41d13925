"""Hands processes over to supervisors (`supervisor`), which a launcher has forked when it needs them.

Up to `_SHARED` processes in sandboxes share a supervisor: its death ends them all, so there is none for all of a machine. Each
launcher fills its own supervisors, so they never have to understand orders of another version. They outlive it.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from archelon_core.fork_server import DESCRIPTOR_LIMIT, ForkError, ForkServer

from .bubblewrap import in_memory
from .orders import LaunchError

#: Processes of a supervisor.
_SHARED = 50
#: Descriptors that one of these may have held: with its own five, and 1024 in all, that is not too many.
_HELD = 12
#: Seconds within which a supervisor must report a start.
_READY = 10.0
#: One for all launchers of this process.
_FORKS = ForkServer(
    ["cloud_controller.platforms.local.supervisor:prepare"], title="archelon-supervisors", seconds=_READY
)


class Supervisors:
    """The supervisors of a launcher. Threads can share them.

    Args:
        root: of the launcher; tracebacks of a failing supervisor, which contain code but no values, are in `supervisors.err`.
        checkpoint: called with a name at each point of interest to crash tests.
    """

    def __init__(self, root: Path, checkpoint: Callable[[str], None]) -> None:
        self._root = root
        self._checkpoint = checkpoint
        self._lock = threading.Lock()
        self._owner = os.getpid()
        #: The number of processes of each shared supervisor, by our end of its socket.
        self._shared: dict[socket.socket, int] = {}
        # A supervisor ends once this is closed and its last process has ended.
        weakref.finalize(self, _close, self._shared)

    def start(
        self, directory: Path, order: dict[str, Any], held: Sequence[int], *, isolated: bool, shared: bool
    ) -> None:
        """Start a process; returns once its state is in `status.json`.

        Args:
            directory: of the process. order: marshalled. isolated: whether the order has a sandbox.
            shared: whether others may have the same supervisor, which then takes what is in its sandbox for all of the process.
            held: descriptors that the supervisor keeps open until the process has ended: its lock, and reservations of ports.

        Raises:
            LaunchError: the supervisor did not start it. OSError: there is no supervisor.
        """
        if len(held) > DESCRIPTOR_LIMIT - 2:
            raise ForkError(errno.EMFILE, f"a process can have at most {DESCRIPTOR_LIMIT - 3} ports")
        ready, writer = os.pipe()
        content = in_memory(marshal.dumps(order))
        try:
            with self._lock:
                channel = self._send(
                    directory, (content, writer, *held), isolated=isolated, shared=shared and len(held) <= _HELD
                )
            os.close(writer)
            writer = -1
            self._checkpoint("order sent")
            poll = select.poll()
            poll.register(ready, select.POLLIN)
            in_time = poll.poll(_READY * 1000)
            if not in_time:
                with self._lock:
                    self._forget(channel)
            # A supervisor that dies closes its end, which is seen as readable.
            if not in_time or not os.read(ready, 1):
                raise LaunchError(
                    f"the supervisor of the process in {directory} did not start it; see {self._root / 'supervisors.err'}"
                )
        finally:
            for descriptor in (ready, writer, content):
                if descriptor >= 0:
                    os.close(descriptor)

    def _send(self, directory: Path, descriptors: Sequence[int], *, isolated: bool, shared: bool) -> socket.socket:
        if self._owner != os.getpid():
            # We are a fork of their owner.
            _close(self._shared)
            self._owner = os.getpid()
        message = marshal.dumps((str(directory), isolated, shared))
        while channel := self._vacant() if shared else None:
            try:
                socket.send_fds(channel, [message], descriptors)
            except (BrokenPipeError, ConnectionResetError, BlockingIOError):
                self._forget(channel)  # it was killed, or takes nothing
                continue
            self._shared[channel] += 1
            return channel
        channel = self._fork(self._root if shared else directory)
        try:
            socket.send_fds(channel, [message], descriptors)
        except BaseException:
            channel.close()
            raise
        if shared:
            self._shared[channel] = 1
        else:
            channel.close()
        return channel

    def _vacant(self) -> socket.socket | None:
        """Return the fullest shared supervisor that takes one more process."""
        for channel in self._shared:
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                while channel.recv(1):
                    self._shared[channel] -= 1
        return max(
            (each for each, count in self._shared.items() if count < _SHARED),
            key=self._shared.__getitem__,
            default=None,
        )

    def _fork(self, subject: Path) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        errors = -1
        try:
            errors = os.open(
                self._root / "supervisors.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            _FORKS.fork(
                "cloud_controller.platforms.local.supervisor:main",
                title=("archelon-supervisor", str(subject)),
                shown={},
                descriptors=(theirs.fileno(),),
                output=errors,
                errors=errors,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            if errors >= 0:
                os.close(errors)
        return ours

    def _forget(self, channel: socket.socket) -> None:
        self._shared.pop(channel, None)
        channel.close()


def _close(shared: dict[socket.socket, int]) -> None:
    for channel in [*shared]:
        channel.close()
    shared.clear()
