"""One call: a request with its retries, within a deadline, and the resulting response or error.

Only idempotent methods are retried (RFC 9110, 9.2.2), and only if the outcome is unambiguous. A write with If-Match whose
response was lost may have succeeded, and the retry would then fail with 412; such a write is retried only if the server reported
that it did not process it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import urllib3.exceptions

from .address import Address
from .connections import Answer, Connections, OversizeError, Request, Stream, failures
from .credentials import Credentials
from .errors import AnswerTooLargeError, StatusError, TimedOutError, TransportError
from .limits import Deadline, Retry, Timeout
from .refusals import describe, is_refused, refusal, traceback_cause

_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))
#: Responses which mean that the server did not process the request.
_NOT_DONE: Final = frozenset((429, 503))
_ERROR_BYTES: Final = 64 << 10


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A request.

    Attributes:
        path: the client's path, with its query.
        headers: in addition to those of the credentials.
        body: bytes, or an iterable of pieces; a request with an iterable is sent once.
        retry: whether it may be retried; None to decide by the method.
        accepted: statuses outside 2xx that are not errors.
        limit: maximum bytes of the response's body; None for the client's limit.
    """

    method: str
    path: str
    headers: Mapping[str, str] = dataclasses.field(repr=False, default_factory=dict)
    body: bytes | Iterable[bytes] | None = dataclasses.field(repr=False, default=None)
    retry: bool | None = None
    accepted: frozenset[int] = frozenset()
    limit: int | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it may be retried if the server certainly did not process it."""
        if self.body is not None and not isinstance(self.body, bytes):
            return False
        return self.method in _IDEMPOTENT if self.retry is None else self.retry

    @property
    def harmless(self) -> bool:
        """Whether it may be retried if the server possibly processed it."""
        return self.repeatable and "If-Match" not in self.headers


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """Time and randomness, replaceable in tests.

    Attributes:
        clock: monotonic clock in seconds.
        sleep: waits that many seconds.
        random: returns a number from 0 to 1.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], None]
    random: Callable[[], float]


@dataclasses.dataclass(frozen=True, slots=True)
class HttpExchange:
    """State shared by the calls of one client. `limit` is the maximum bytes of a response's body."""

    address: Address
    connections: Connections
    credentials: Credentials
    timeout: Timeout
    retry: Retry
    waiting: Waiting
    limit: int

    def call(self, call: Call) -> Answer:
        """Send a request, and retry it if permitted and useful. Raises ClientError; see `errors`."""
        deadline = Deadline(self.timeout, self.waiting.clock)
        lost = False
        attempt = 1
        while True:
            error: TransportError | StatusError
            try:
                answer = self._send(call, deadline, attempt)
            except TransportError as failure:
                error, again = failure, call.harmless
                lost = True
            else:
                if 200 <= answer.status <= 299 or answer.status in call.accepted:
                    return answer
                if answer.status == 404 and call.method == "DELETE" and lost:
                    # An earlier attempt succeeded, and its response was lost.
                    return Answer(204, answer.headers)
                error = self._refusal(call, answer, attempt)
                again = call.repeatable if answer.status in _NOT_DONE else call.harmless
                again = again and answer.status in self.retry.statuses
                lost = lost or answer.status not in _NOT_DONE
            if not again or attempt >= self.retry.attempts:
                raise error
            delay = self.retry.delay(attempt, self.waiting.random, getattr(error, "retry_after", None))
            remaining = deadline.remaining()
            if remaining is not None and delay >= remaining:
                raise error
            self.waiting.sleep(delay)
            attempt += 1

    def stream(self, call: Call) -> Iterator[bytes]:
        """Send a request once, and yield the response's body as it arrives; the deadline covers the whole body.

        The request is sent with the first iteration. Closing the iterator closes the connection.

        Raises:
            ClientError: see `errors`.
        """
        deadline = Deadline(self.timeout, self.waiting.clock)
        fields, secrets = self.credentials.fields()
        try:
            stream = self.connections.open(self._request(call, fields), deadline)
        except failures as error:
            raise self._failure(error, call, deadline) from traceback_cause(error)
        finished = False
        try:
            if not 200 <= stream.status <= 299:
                answer = Answer(stream.status, stream.headers, _first(stream), secrets)
                raise self._refusal(call, answer)
            yield from stream
            finished = True
        except failures as error:
            raise self._failure(error, call, deadline) from traceback_cause(error)
        finally:
            if finished:
                stream.finish()
            else:
                stream.discard()

    def _send(self, call: Call, deadline: Deadline, attempt: int) -> Answer:
        fields, secrets = self.credentials.fields()
        limit = self.limit if call.limit is None else call.limit
        try:
            answer = self.connections.send(self._request(call, fields), deadline, limit=limit)
        except OversizeError:
            raise AnswerTooLargeError(
                f"the response exceeds the limit of {limit} bytes; the rest was not read",
                method=call.method,
                url=self.address.url(call.path),
            ) from None
        except failures as error:
            raise self._failure(error, call, deadline, attempt) from traceback_cause(error)

        return dataclasses.replace(answer, secrets=secrets)

    def _request(self, call: Call, fields: dict[str, str]) -> Request:
        return Request(
            call.method, self.address.target(call.path), {**fields, **call.headers}, call.body, call.harmless
        )

    def _failure(self, error: BaseException, call: Call, deadline: Deadline, attempts: int = 1) -> TransportError:
        timed_out = isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError) and not is_refused(error)
        made = TimedOutError if timed_out else TransportError
        message = deadline.message() if timed_out and deadline.remaining() == 0 else describe(error)
        return made(message, method=call.method, url=self.address.url(call.path), attempts=attempts)

    def _refusal(self, call: Call, answer: Answer, attempts: int = 1) -> StatusError:
        return refusal(answer, method=call.method, url=self.address.url(call.path), attempts=attempts)


def _first(stream: Stream) -> bytes:
    """Return the beginning of an error's body."""
    body = bytearray()
    for piece in stream:
        body += piece
        if len(body) > _ERROR_BYTES:
            break
    return bytes(body)
