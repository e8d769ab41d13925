"""A way to a server that a test can block, or hold the answers on: a TCP relay on a port of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from tests.ports import free_port


class Relay:
    """Passes connections on, until it is blocked: then those that stand end, and new ones are refused.

    Attributes:
        target: where it passes them on to.
        held: set while an answer is held.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._flows = threading.Event()
        self._flows.set()
        self.held = threading.Event()
        self.port = free_port()
        self.unblock()

    def unblock(self) -> None:
        """Pass on again."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def hold(self) -> None:
        """Be as a server that is slow: what is asked arrives, and the answer does not come back until `release`."""
        self._flows.clear()

    def release(self) -> None:
        """Let the answers go."""
        with self._lock:
            self.held.clear()
            self._flows.set()

    def block(self) -> None:
        """Be as a server that was killed."""
        with self._lock:
            listener, self._listener = self._listener, None
            standing, self._open = self._open, set()
        if listener is not None:
            # close alone would let accept go on.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for each in standing:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        # What was held goes nowhere now.
        self.release()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near, listener), daemon=True).start()

    def _carry(self, near: socket.socket, listener: socket.socket) -> None:
        with contextlib.closing(near):
            try:
                far = socket.create_connection(self.target, timeout=10)
            except OSError:
                return
            far.settimeout(None)
            with contextlib.closing(far):
                with self._lock:
                    if self._listener is not listener:
                        # Blocked since it was accepted.
                        return
                    self._open |= {near, far}
                back = threading.Thread(target=_pass, args=(far, near, self._wait), daemon=True)
                back.start()
                _pass(near, far)
                back.join()
                with self._lock:
                    self._open -= {near, far}

    def _wait(self) -> None:
        with self._lock:
            if not self._flows.is_set():
                self.held.set()
        self._flows.wait()


def _pass(source: socket.socket, sink: socket.socket, wait: Callable[[], None] = lambda: None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            wait()
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay_to(host: str, port: int) -> Iterator[Relay]:
    """One for the time of a test."""
    relay = Relay(host, port)
    try:
        yield relay
    finally:
        relay.block()
