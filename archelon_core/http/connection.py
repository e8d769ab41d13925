"""A client's connection while no thread has it: receive a request, pass it to a thread, send the rest of the response, close.

A worker's thread only gets complete requests. A slow client waits in the poller, where it costs a descriptor and a bounded
buffer: larger bodies, and the part of a response that the client has not read, are in temporary files. Each stage has a deadline
as a whole, not per read, so single bytes do not prolong it; large transfers get more time by a minimum rate, as in Apache's
mod_reqtimeout (`body=10,MinRate=8192`).

Gunicorn parses the complete head, and decodes a chunked body; this module only finds the end of each. If the two disagree, the
connection is closed, and nothing behind that point is taken for a request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
import selectors
import socket
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterator
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn, Protocol

import gunicorn.http.body
import gunicorn.http.errors
import gunicorn.http.message
import gunicorn.http.unreader
import gunicorn.workers.gthread

if TYPE_CHECKING:
    from ..settings import WebSettings

_logger = logging.getLogger(__name__)

#: Yielded by `Connection.steps`, besides `selectors.EVENT_READ` and `EVENT_WRITE`: a request is ready for a thread.
RUN: Final = 0

#: Limit on a request line and fields, in bytes; above what `SizeLimit` accepts, which answers with its own error.
_MOST_HEAD: Final = 128 * 1024
#: Bytes of a body, or of the rest of a response, that stay in memory.
_IN_MEMORY: Final = 64 * 1024
_PIECE: Final = 64 * 1024
#: Bytes of a chunked body per read of gunicorn, which copies the remainder for each chunk.
_COPIED: Final = 4096
#: Limit on a line of a chunked body, in bytes.
_MOST_LINE: Final = 16 * 1024
_BARE_LINE_FEED: Final = re.compile(rb"(?<!\r)\n")
#: Seconds that a client has to read the end of a response before the connection is closed (RFC 9112, 9.6).
_LINGER: Final = 2.0

_Steps = Generator[int, None, None]


@dataclasses.dataclass(frozen=True)
class ConnectionLimits:
    """Limits on the resources, other than threads, that clients may use.

    Attributes:
        seconds: for a request's line and fields; for its body, and for reading the response, in addition to `rate`.
        rate: bytes per second; a body or a response gets one more second for each so many bytes transferred.
        body: bytes of a body, or a function of the request's path that returns them. A larger one is not received; the
            application is called nonetheless, and should refuse it.
        connections: per process; at most a quarter of its file descriptors.
        per_address: connections of one address, per process, without a running request. An IPv6 address counts as its /64.
            Connections from `trusted_proxies` and over UNIX sockets count for `connections` only.
        stored: bytes of unfinished bodies and responses in temporary files, of all connections of a process.
    """

    seconds: float = 10.0
    rate: int = 8192
    body: int | Callable[[str], int] = 1024 * 1024
    connections: int = 1000
    per_address: int = 128
    stored: int = 128 * 1024 * 1024

    @classmethod
    def of(cls, settings: WebSettings, *, body: Callable[[str], int]) -> ConnectionLimits:
        """The limits of `settings`, with `body` as the limit on bodies by path."""
        return cls(
            seconds=settings.client_seconds,
            rate=settings.client_rate,
            body=body,
            connections=settings.connections,
            per_address=settings.connections_per_address,
            stored=settings.client_storage,
        )

    def body_at(self, target: str) -> int:
        """The limit on a body, in bytes, for a request target, which is decoded as WSGI requires (PEP 3333)."""
        return self.body if isinstance(self.body, int) else self.body(urllib.parse.unquote(target, "latin-1"))


class RequestTimeoutError(Exception):
    """A request was not complete in time: 408 (RFC 9110, 15.5.9)."""


class BodyNotKeptError(Exception):
    """A request's body cannot be written to its temporary file: 503."""


class Connection(gunicorn.workers.gthread.TConn):  # type: ignore[misc]
    """One client's connection.

    Attributes:
        socket: for the poller; gunicorn's threads have `sock` in its place.
        steps: the connection's life as a generator. It yields what it waits for: `selectors.EVENT_READ`, `EVENT_WRITE`, or
            `RUN`; resume it when that is ready, and after `RUN` when the request is answered. At `deadline`, throw a
            TimeoutError into it. It returns, or raises EOFError or OSError, when the connection is to be closed.
        deadline: by `time.monotonic`.
        since: start of the present stage.
        head_size: bytes of the request's line and fields.
        between: whether it waits for a request's head, so that closing it interrupts nothing.
        keep: whether the connection stays open after the response. Set it before resuming `steps` after `RUN`.
        source: the client, for `ConnectionLimits.per_address`.
        stored: bytes of a body and of the rest of a response.
    """

    def __init__(
        self,
        config: Any,
        sock: socket.socket,
        client: Any,
        server: Any,
        *,
        limits: ConnectionLimits,
        source: str | None,
    ) -> None:
        super().__init__(config, sock, client, server)
        self.socket, self.sock = sock, Outgoing(sock)
        # Prevents gunicorn from creating a parser that reads from the socket.
        self.initialized = True
        self.limits = limits
        self.source = source
        self.keep = False
        self.head_size = 0
        self.between = True
        self._received = bytearray()
        self._body: IO[bytes] | None = None
        self._body_size = 0
        self._requests = 0
        self.steps = self._live()
        self._begin(limits.seconds)

    def close(self, graceful: bool = False) -> None:
        """Close at once. Gunicorn's graceful way blocks the poller until the client has read."""
        self.socket.close()
        # Flushing a file may fail on a full disk; its descriptor is closed nonetheless.
        with contextlib.suppress(OSError):
            if self._body is not None:
                self._body.close()
        with contextlib.suppress(OSError):
            if (rest := self.sock.take()) is not None:
                rest.close()

    @property
    def stored(self) -> int:
        return self._body_size + self.sock.kept

    def _begin(self, seconds: float, *, between: bool = False) -> None:
        self.since = time.monotonic()
        self.deadline = self.since + seconds
        self.between = between

    def _live(self) -> _Steps:
        wait = self.limits.seconds
        while True:
            if not self._received:
                self._begin(wait, between=True)
                yield from self._receive_some(at_once=True)
            self._begin(self.limits.seconds, between=True)
            self.parser = yield from self._receive()
            yield RUN
            if self._body is not None:
                self._body.close()
                self._body, self._body_size = None, 0
            yield from self._send_rest()
            if not self.keep:
                break
            wait = self.cfg.keepalive
        yield from self._linger()

    def _receive(self) -> Generator[int, None, _Received]:
        """A request, or the error that prevented one: its thread raises that again, and gunicorn answers it."""
        try:
            head = yield from self._receive_head()
            self.head_size = len(head)
            self._requests += 1
            source = gunicorn.http.unreader.IterUnreader(self._pieces(head))
            request = gunicorn.http.message.Request(self.cfg, source, self.client, self._requests)
            complete = yield from self._receive_body(request)
        except TimeoutError:
            return _Received(RequestTimeoutError(f"the request was not complete within {self.limits.seconds:g} s"))
        except (EOFError, OSError):
            raise
        except BodyNotKeptError as error:
            _logger.warning("a request's body could not be kept", exc_info=error)
            return _Received(error)
        except Exception as error:  # noqa: BLE001 - gunicorn raises various errors
            return _Received(error)
        return _Received(request, complete=complete)

    def _receive_head(self) -> Generator[int, None, bytes]:
        # Do not take the empty line that RFC 9112, 2.2 tolerates before a request for its end.
        searched = 2
        while (end := self._received.find(b"\r\n\r\n", searched)) < 0:
            self.sock.is_head = self._received.startswith(b"HEAD ")
            if len(self._received) > _MOST_HEAD:
                raise gunicorn.http.errors.LimitRequestHeaders(f"more than {_MOST_HEAD} bytes")
            if _BARE_LINE_FEED.search(self._received, searched):
                # Gunicorn refuses this, whatever follows.
                end = len(self._received)
                break
            searched = max(2, len(self._received) - 3)
            yield from self._receive_some()
        self.sock.is_head = self._received.startswith(b"HEAD ")
        return self._take(end + 4)

    def _receive_body(self, request: Any) -> Generator[int, None, bool]:
        reader = request.body.reader
        chunked = isinstance(reader, gunicorn.http.body.ChunkedReader)
        framing: _Framing = _Chunks() if chunked else _Length(reader.length)
        limit = self.limits.body_at(request.path)
        received_limit = 2 * limit + _MOST_LINE if chunked else limit
        # Gunicorn would send it when the application reads, which is after the body is received.
        expected, request._expected_100_continue = request._expected_100_continue, False
        if not chunked and reader.length > received_limit:
            request.force_close()
            request.body = _NotReceived()
            return False
        if framing.ended():
            return True
        if expected:
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._begin(self.limits.seconds)
        self._body = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - open until the response
        while True:
            part = self._take(framing.take(self._received))
            with self._keeping():
                self._body.write(part)
            self._body_size += len(part)
            self.deadline += len(part) / self.limits.rate
            if framing.ended():
                break
            if self._body_size > received_limit:
                request.force_close()
                break
            yield from self._receive_some()
        with self._keeping():
            self._body.seek(0)
        if not chunked:
            request.body = self._body
        return framing.ended()

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            body, self._body = self._body, None
            if body is not None:
                # It would try to write again.
                with contextlib.suppress(OSError):
                    body.close()
            raise BodyNotKeptError("the request's body cannot be stored: the disk may be full; retry later") from error

    def _receive_some(self, *, at_once: bool = False) -> _Steps:
        """Receive a piece, once the poller reports one; with `at_once`, try without waiting first."""
        while True:
            if not at_once:
                yield selectors.EVENT_READ
            at_once = False
            with contextlib.suppress(BlockingIOError):
                data = self.socket.recv(_PIECE)
                if not data:
                    raise EOFError
                self._received += data
                return

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _pieces(self, head: bytes) -> Iterator[bytes]:
        yield head
        while self._body is not None and (piece := self._body.read(_COPIED)):
            yield piece

    def _send_rest(self) -> _Steps:
        rest = self.sock.take()
        if rest is None:
            return
        self._begin(self.limits.seconds)
        with rest:
            while piece := memoryview(rest.read(_PIECE)):
                while piece:
                    yield selectors.EVENT_WRITE
                    with contextlib.suppress(BlockingIOError):
                        sent = self.socket.send(piece)
                        piece = piece[sent:]
                        self.deadline += sent / self.limits.rate
        self.sock.kept = 0

    def _linger(self) -> _Steps:
        """Drain the connection: closing it while the client still sends would make the kernel discard the response."""
        self._begin(_LINGER)
        # The client may have disconnected already.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        while True:
            self._received.clear()
            yield from self._receive_some()


class Outgoing:
    """The socket of a request's thread: what the client does not read at once is kept for the poller.

    Gunicorn's other socket calls have no effect here; the poller does that work.

    Attributes:
        is_head: whether the request is a HEAD, as far as known if it could not be parsed.
        kept: number of bytes kept.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._kept: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._held = b""
        self.kept = 0
        self.is_head = False

    def hold(self, head: bytes) -> None:
        """Send this with the next data, or at `flush`: one system call, and one packet."""
        self._held = head

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self.sendall(b"")

    def sendall(self, data: bytes) -> None:
        """Send or keep the data. Raises OSError: the client has disconnected."""
        if self._held:
            data, self._held = self._held + data, b""
        view = memoryview(data)
        if self._kept is None:
            with contextlib.suppress(BlockingIOError):
                view = view[self._socket.send(view) :]
            if not view:
                return
            self._kept = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - `take` returns it
        self.kept += len(view)
        if self.kept > _IN_MEMORY:
            # Before the write, which would otherwise hold the bytes in memory a second time.
            self._kept.rollover()
        self._kept.write(view)

    def take(self) -> IO[bytes] | None:
        """What was kept, from its beginning; the caller closes it."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.seek(0)
        return kept

    def setblocking(self, _flag: bool) -> None:
        """The socket never blocks."""

    def settimeout(self, _seconds: float | None) -> None:
        """See `setblocking`."""

    def gettimeout(self) -> float:
        """See `setblocking`."""
        return 0.0

    def shutdown(self, _how: int) -> None:
        """The poller does it after sending what was kept."""

    def recv(self, _size: int) -> bytes:
        """The poller receives; there is nothing left to read."""
        return b""

    def close(self) -> None:
        """See `shutdown`."""


class _Received:
    """Stands in for gunicorn's parser: returns the one request that was received."""

    def __init__(self, request: Any, *, complete: bool = False) -> None:
        self._request = request
        self._complete = complete

    def __next__(self) -> Any:
        if isinstance(self._request, Exception):
            raise self._request
        return self._request

    def finish_body(self, deadline: float) -> bool:
        """Whether the next request begins where this one's body was found to end. `deadline` is gunicorn's, and unused."""
        body = self._request.body
        if not self._complete or not isinstance(body, gunicorn.http.body.Body):
            return self._complete
        return not body.failed and self._at_end(body)

    def _at_end(self, body: Any) -> bool:
        try:
            if len(body.read(_PIECE)) == _PIECE:
                # Reading on costs more than a new connection, and a refused client could exploit it.
                return False
        except Exception:  # noqa: BLE001 - what the application did not read was not a valid body
            return False
        unreader = self._request.unreader
        return not unreader.buf.getvalue() and not unreader.chunk()


class _NotReceived(io.RawIOBase):
    """The body of a request whose declared length is too large."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> NoReturn:
        raise OSError("the body is larger than the limit and was not received")


class _Framing(Protocol):
    """Finds the end of a body: `take` returns how many of these bytes belong to it."""

    def ended(self) -> bool: ...

    def take(self, data: bytearray) -> int: ...


class _Length:
    def __init__(self, left: int) -> None:
        self._left = left

    def ended(self) -> bool:
        return self._left == 0

    def take(self, data: bytearray) -> int:
        size = min(self._left, len(data))
        self._left -= size
        return size


class _Chunks:
    """A chunked body (RFC 9112, 7.1). A malformed one ends at once; gunicorn, which parses it, refuses it."""

    def __init__(self) -> None:
        self._ended = False
        self._skip = 0
        self._line = b""
        self._in_trailer = False

    def ended(self) -> bool:
        return self._ended

    def take(self, data: bytearray) -> int:
        at = 0
        while at < len(data) and not self._ended:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
            else:
                step = self._take_line(data, at)
            at += step
        return at

    def _take_line(self, data: bytearray, at: int) -> int:
        end = data.find(b"\n", at) + 1
        part = bytes(data[at : end or None])
        self._line += part
        if end:
            self._end_line(self._line)
            self._line = b""
        elif len(self._line) > _MOST_LINE:
            self._ended = True
        return len(part)

    def _end_line(self, line: bytes) -> None:
        if self._in_trailer:
            self._ended = line == b"\r\n"
            return
        try:
            size = int(line.partition(b";")[0].strip(), 16)
        except ValueError:
            size = -1
        self._ended = size < 0
        self._in_trailer = size == 0
        # A chunk's data ends with CRLF.
        self._skip = size + 2 if size > 0 else 0
