"""Connections to one server: opened on demand, kept alive, each bound to its call's deadline.

urllib3's connections implement HTTP/1.1 and TLS. Its pools are not used: a pool's timeout covers one wait for bytes, so that a
server that trickles bytes blocks a caller indefinitely. Here every read and write is limited by the call's deadline. This module
is independent of OCCI, retries and redirects.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import http.client
import io
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import urllib3.connection
import urllib3.exceptions

from archelon_core.transactions import forbid_in_transaction

from .limits import Deadline

_PIECE: Final = 64 << 10
#: Seconds. A server may close a connection that was idle for longer just as the next request is sent; whether it was processed is
#: then unknown. So a request that must not be repeated is not sent on one.
_FRESH: Final = 0.5

#: Exceptions of a broken or slow network. TimeoutError is an OSError too.
failures: Final = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError)


class OversizeError(Exception):
    """The response's body is larger than the limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request to send.

    Attributes:
        target: path and query.
        headers: values as Latin-1 text; never shown, since they include the token.
        body: bytes, or an iterable of pieces.
        harmless: whether the caller repeats it if the connection breaks.
    """

    method: str
    target: str
    headers: Mapping[str, str] = dataclasses.field(repr=False, default_factory=dict)
    body: bytes | Iterable[bytes] | None = dataclasses.field(repr=False, default=None)
    harmless: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Attributes:
        headers: names in lower case; repeated fields are joined by commas.
        secrets: values in the request that no text about the response may repeat.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    secrets: frozenset[str] = dataclasses.field(repr=False, default=frozenset())


@dataclasses.dataclass(frozen=True, slots=True)
class Secure:
    """TLS settings.

    Attributes:
        ca_file: PEM file of the trusted authorities, instead of the system's.
        verify: whether certificate and host name are checked. If not, anyone on the path can read the token.
    """

    ca_file: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Return the context for new connections. Raises OSError if the file cannot be read or has no certificate."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _TimedReader(io.RawIOBase):
    """The bytes of one response; each read from the socket is limited by the deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.wait(self._deadline.timeout.read))
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, deadline: Deadline, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        raw: Any = self.fp.detach()
        self.fp = io.BufferedReader(_TimedReader(raw, sock, deadline))

    def begin(self) -> None:
        super().begin()
        rest = self.msg.get_payload()
        if isinstance(rest, str) and rest:
            # A malformed line ended the header early. urllib3 would log it, and any secret that it repeats.
            raise http.client.HTTPException("a line of the header is not a header field")


class _Timed(urllib3.connection.HTTPConnection):
    """A connection used by one call at a time; `deadline` is that call's."""

    deadline: Deadline
    idle_since: float = 0.0

    def connect(self) -> None:
        self.timeout = self.deadline.wait(self.deadline.timeout.connect)
        super().connect()

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        # One large sendall would have a single timeout, however long the body.
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            self.sock.settimeout(self.deadline.wait(self.deadline.timeout.read))
            super().send(view[start : start + _PIECE])

    def getresponse(self) -> Any:
        self.timeout = self.deadline.wait(self.deadline.timeout.read)
        self.response_class = functools.partial(_Response, deadline=self.deadline)  # type: ignore[assignment]
        return super().getresponse()


class _TimedSecure(_Timed, urllib3.connection.HTTPSConnection):
    pass


class Connections:
    """A pool for one host. Thread-safe; after a fork each process opens its own.

    Args:
        scheme: `http` or `https`.
        secure: TLS settings; the context is created once, by the first connection.
        keep: maximum number of idle connections.
    """

    def __init__(self, scheme: str, host: str, port: int, *, secure: Secure, keep: int = 8) -> None:
        self._scheme = scheme
        self._host = host
        self._port = port
        self._secure = secure
        self._idle: collections.deque[_Timed] = collections.deque()
        self._keep = keep
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._context: ssl.SSLContext | None = None
        self._closed = False

    def send(self, request: Request, deadline: Deadline, *, limit: int) -> Answer:
        """Send a request once, and read the whole response.

        Raises:
            OversizeError: the body has more than `limit` bytes.
            OSError, http.client.HTTPException, urllib3.exceptions.HTTPError: see `failures`.
        """
        stream = self.open(request, deadline)
        try:
            length = stream.headers.get("content-length", "")
            if request.method != "HEAD" and length.isascii() and length.isdigit() and int(length[:20]) > limit:
                raise OversizeError
            body = bytearray()
            for piece in stream:
                body += piece
                if len(body) > limit:
                    raise OversizeError
        except BaseException:
            stream.discard()
            raise
        stream.finish()
        return Answer(stream.status, stream.headers, bytes(body))

    def open(self, request: Request, deadline: Deadline) -> Stream:
        """Send a request once, and read the head of the response. See `send` for the exceptions."""
        forbid_in_transaction("a call to another service")
        connection = self._lease(idle=math.inf if request.harmless else _FRESH)
        connection.deadline = deadline
        try:
            try:
                connection.request(
                    request.method,
                    request.target,
                    body=request.body,
                    headers=request.headers,
                    preload_content=False,
                    decode_content=False,
                )
            except (BrokenPipeError, ConnectionResetError):
                # A server may refuse and close before it has read the whole body; its response may have arrived.
                if connection.sock is None or not request.body:
                    raise
                try:
                    response = connection.getresponse()
                except failures:
                    response = None
                if response is None:
                    raise
                return Stream(self, connection, response, broken=True)
            return Stream(self, connection, connection.getresponse())
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are returned."""
        with self._lock:
            self._closed = True
            idle = [*self._idle]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _lease(self, idle: float) -> _Timed:
        """Return a connection that was idle for at most so many seconds, or a new one."""
        while True:
            with self._lock:
                if self._process != os.getpid():
                    # After a fork the sockets are shared with the parent, and both would write to them.
                    self._process = os.getpid()
                    self._idle.clear()
                # The last one is the one that was used last.
                usable = self._idle and time.monotonic() - self._idle[-1].idle_since <= idle
                connection = self._idle.pop() if usable else None
            if connection is None:
                return self._new()
            if connection.is_connected:
                return connection
            connection.close()

    def _new(self) -> _Timed:
        if self._scheme != "https":
            return _Timed(self._host, self._port)
        with self._lock:
            if self._context is None:
                self._context = self._secure.context()
            context = self._context
        return _TimedSecure(self._host, self._port, ssl_context=context)

    def give_back(self, connection: _Timed) -> None:
        """Keep a connection whose response was read to its end."""
        with self._lock:
            if not self._closed and self._process == os.getpid():
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
                if len(self._idle) <= self._keep:
                    return
                connection = self._idle.popleft()
        connection.close()


class Stream:
    """A response whose body has not been read. Iterate once, then `finish`; or `discard` at any time.

    Attributes:
        status: the HTTP status.
        headers: names in lower case.
    """

    def __init__(self, pool: Connections, connection: _Timed, response: Any, *, broken: bool = False) -> None:
        self._pool = pool
        self._connection = connection
        self._response = response
        self._broken = broken
        self.status: int = response.status
        self.headers: dict[str, str] = {name.lower(): response.headers[name] for name in response.headers}

    def __iter__(self) -> Iterator[bytes]:
        while True:
            piece = self._response.read1(_PIECE)
            if not piece:
                return
            yield piece

    def finish(self) -> None:
        """Return the connection to the pool."""
        if self._broken or self._connection.sock is None:
            self.discard()
        else:
            self._pool.give_back(self._connection)

    def discard(self) -> None:
        """Close the connection, even if the response is incomplete."""
        self._response.close()
        self._connection.close()
