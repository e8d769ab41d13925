"""A TCP relay to a server, which a test can block, or on which it can hold responses."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from tests.ports import free_port


class Relay:
    """Forwards connections until it is blocked: then open ones are closed, and new ones refused.

    Attributes:
        target: address that it forwards to.
        held: set while a response is held.
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
        """Accept and forward connections again."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def hold(self) -> None:
        """Behave like a slow server: requests arrive, and responses are held until `release`."""
        self._flows.clear()

    def release(self) -> None:
        """Forward the held responses."""
        with self._lock:
            self.held.clear()
            self._flows.set()

    def block(self) -> None:
        """Behave like a killed server."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections, self._open = self._open, set()
        if listener is not None:
            # close() alone would not end accept().
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        # Held responses are discarded, because their connections are closed.
        self.release()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(near, listener), daemon=True).start()

    def _forward(self, near: socket.socket, listener: socket.socket) -> None:
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
    """Run a relay for one test."""
    relay = Relay(host, port)
    try:
        yield relay
    finally:
        relay.block()
