"""Connections that go to exactly one address and end in time.

A connection does not use the host's name: the caller resolves it once, checks the result (`archelon_core.addresses`), and the
socket goes to the address.
"""

from __future__ import annotations

import contextlib
import socket

import urllib3.connection


class _Cuttable:
    """Lets another thread end a connection at the deadline.

    A socket's timeout restarts with each byte, so a server that sends single bytes (in the TLS handshake, the header, a
    compressed body) could be waited for forever. A duplicate of the socket stays ours while TLS takes over the first.
    """

    _own: socket.socket | None = None
    _late = False

    def watch(self, connected: socket.socket) -> socket.socket:
        self._own = connected.dup()
        if self._late:
            self.cut()
        return connected

    def cut(self) -> None:
        self._late = True
        own = self._own
        if own is not None:
            with contextlib.suppress(OSError):
                own.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        if self._own is not None:
            self._own.close()


class PlainConnection(_Cuttable, urllib3.connection.HTTPConnection):
    """HTTP to an address; `cut` ends it from another thread, `release` frees the descriptor for that."""

    def _new_conn(self) -> socket.socket:
        return self.watch(super()._new_conn())


class TLSConnection(_Cuttable, urllib3.connection.HTTPSConnection):
    """HTTPS to an address; the certificate is still checked against the host's name."""

    def _new_conn(self) -> socket.socket:
        return self.watch(super()._new_conn())
