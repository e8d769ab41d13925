"""One call: a request, sent as often as it may be within its deadline, and the answer or the error that comes of it.

Only idempotent methods are sent again (RFC 9110, 9.2.2), and only when nothing ambiguous would follow: a write with
If-Match whose answer was lost may have been done, and the second try would then fail with 412 though the first
succeeded, so such a write is repeated only where the server has said that it did not do it.
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
from .refusals import is_refused, reason, refusal, words

_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))
#: Answers that say that the server did not act on the request at all.
_NOT_DONE: Final = frozenset((429, 503))
_ERROR_BYTES: Final = 64 << 10


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """What is to be asked.

    Attributes:
        path: the client's path, with its query.
        headers: beside those of the credentials.
        body: bytes, or pieces that can be had once; a request with such a body is sent once.
        retry: whether it may be sent again; None for what the method allows.
        accepted: statuses outside 2xx that are answers and not errors.
        limit: bytes of the answer's body, or None for the client's own limit.
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
        """Whether it may be sent again where the first sending was surely not acted upon."""
        if self.body is not None and not isinstance(self.body, bytes):
            return False
        return self.method in _IDEMPOTENT if self.retry is None else self.retry

    @property
    def harmless(self) -> bool:
        """Whether it may be sent again though the first sending was perhaps acted upon."""
        return self.repeatable and "If-Match" not in self.headers


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """Time and chance, as parameters.

    Attributes:
        clock: seconds that only grow.
        sleep: waits that many seconds.
        random: a number from 0 up to 1.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], None]
    random: Callable[[], float]


@dataclasses.dataclass(frozen=True, slots=True)
class HttpExchange:
    """Everything that the calls of one client share. `limit` is bytes of an answer's body."""

    address: Address
    connections: Connections
    credentials: Credentials
    timeout: Timeout
    retry: Retry
    waiting: Waiting
    limit: int

    def call(self, call: Call) -> Answer:
        """Ask, and again where that is allowed and helps.

        Raises:
            ClientError: see `errors`.
        """
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
                    # An earlier sending, whose answer was lost, has done it.
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
        """Ask once, and hand the answer's body over as it comes; the deadline covers it up to its last byte.

        The request goes out when the first piece is asked for. Closing the iterator closes the connection.

        Raises:
            ClientError: see `errors`.
        """
        deadline = Deadline(self.timeout, self.waiting.clock)
        fields, secrets = self.credentials.fields()
        try:
            stream = self.connections.open(self._request(call, fields), deadline)
        except failures as error:
            raise self._failure(error, call, deadline) from reason(error)
        finished = False
        try:
            if not 200 <= stream.status <= 299:
                answer = Answer(stream.status, stream.headers, _first(stream), secrets)
                raise self._refusal(call, answer)
            yield from stream
            finished = True
        except failures as error:
            raise self._failure(error, call, deadline) from reason(error)
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
                f"the answer has more than the {limit} bytes that are taken; the rest was not read",
                method=call.method,
                url=self.address.url(call.path),
            ) from None
        except failures as error:
            raise self._failure(error, call, deadline, attempt) from reason(error)

        return dataclasses.replace(answer, secrets=secrets)

    def _request(self, call: Call, fields: dict[str, str]) -> Request:
        return Request(call.method, self.address.target(call.path), {**fields, **call.headers}, call.body)

    def _failure(self, error: BaseException, call: Call, deadline: Deadline, attempts: int = 1) -> TransportError:
        timed_out = isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError) and not is_refused(error)
        made = TimedOutError if timed_out else TransportError
        message = deadline.words() if timed_out and deadline.remaining() == 0 else words(error)
        return made(message, method=call.method, url=self.address.url(call.path), attempts=attempts)

    def _refusal(self, call: Call, answer: Answer, attempts: int = 1) -> StatusError:
        return refusal(answer, method=call.method, url=self.address.url(call.path), attempts=attempts)


def _first(stream: Stream) -> bytes:
    """The beginning of an error's body."""
    body = bytearray()
    for piece in stream:
        body += piece
        if len(body) > _ERROR_BYTES:
            break
    return bytes(body)
