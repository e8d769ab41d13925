"""What an orchestrator says to its service manager: `renew` and `report`, repeated until they are heard.

The service manager may be dead (the test killed it) or refuse for now: connection errors, 429 and 5xx are tried again, at
growing intervals, for as long as the orchestrator lives. 404 and 409 end a call: the instance is gone, the order is
older than another. 401 means that the token ran out: it is renewed, and the report said again. Calls are made by a
bounded pool; what waits for its next attempt is a timer.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import urllib3
from occi.core_model import Action

from archelon_api import service_manager, tokens
from archelon_api.names import GENERATION
from occi_service.attributes import as_attribute, check
from occi_service.model import type_id

from .journal import Journal
from .timers import Timer, Timers

#: Seconds between attempts: the first and the longest.
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0
_MEDIA_TYPE: Final = "application/occi+json"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call: a status, or the error that there was none."""

    status: int | None
    body: bytes
    error: str
    seconds: float

    @property
    def passing(self) -> bool:
        """Whether to try again later."""
        return self.status is None or self.status == 429 or self.status >= 500


class Calls:
    """Makes calls, at most `threads` at once.

    Args:
        on_error: told of what handling an answer raised.
    """

    def __init__(self, timers: Timers, on_error: Callable[[Exception], None], *, threads: int = 16) -> None:
        self.timers = timers
        self._on_error = on_error
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="call")
        # The answers name why they failed; redirects are not for tokens.
        self._http = urllib3.PoolManager(
            maxsize=threads, retries=False, timeout=urllib3.Timeout(connect=2.0, read=10.0)
        )

    def post(self, url: str, headers: Mapping[str, str], document: Any, then: Callable[[Answer], None]) -> None:
        """Call, and hand the answer to `then`, in a thread of the pool."""
        self._pool.submit(self._post, url, headers, document, then)

    def _post(self, url: str, headers: Mapping[str, str], document: Any, then: Callable[[Answer], None]) -> None:
        begun = time.monotonic()
        try:
            response = self._http.request(
                "POST", url, body=json.dumps(document).encode(), headers=headers, redirect=False
            )
            answer = Answer(response.status, response.data, "", time.monotonic() - begun)
        except urllib3.exceptions.HTTPError as error:
            answer = Answer(None, b"", type(error).__name__, time.monotonic() - begun)
        try:
            then(answer)
        except Exception as error:
            # The pool would keep it in a future that nobody looks at.
            self._on_error(error)


class _Delivery:
    """One thing to be said, until it is heard."""

    def __init__(self, name: str, action: Action, attributes: dict[str, Any], request_id: str) -> None:
        self.name = name
        self.request_id = request_id
        self.attributes = {
            each: check(each, value, as_attribute(action.attributes[each])) for each, value in attributes.items()
        }
        self.document = {"action": type_id(action), "attributes": self.attributes}
        self.term = action.term
        self.attempts = 0
        self.timer: Timer | None = None
        self.under_way = False
        self.once_more = False


class Line:
    """From one process of an orchestrator to its service manager. It holds that process's tokens, and dies with it.

    Args:
        instance: id of the instance.
        url: of the instance at the service manager.
        start_token: as the environment gave it.
        lock: held while state changes, and while `on_heard` and `on_gone` are called.
        on_heard: told of a report that was taken, with its attributes.
    """

    def __init__(
        self,
        instance: str,
        url: str,
        *,
        start_token: str,
        calls: Calls,
        journal: Journal,
        lock: Any,
        process: int,
        on_heard: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._instance = instance
        self._url = url
        self._start_token = start_token
        self._calls = calls
        self._journal = journal
        self._lock = lock
        self._process = process
        self._on_heard = on_heard
        self._tokens: dict[str, str] = {}
        self._renewal: _Delivery | None = None
        self._reports: dict[str, _Delivery] = {}
        self._cut = False

    @property
    def pending(self) -> list[str]:
        """Reports that were not heard yet."""
        return sorted(self._reports)

    def cut(self) -> None:
        """Say nothing any more."""
        self._cut = True
        self._reports.clear()

    def take_tokens(self, given: Mapping[str, str]) -> None:
        """Use these from now on, by audience."""
        self._tokens.update(given)
        self._journal.effect(
            "tokens taken", self._instance, process=self._process, audiences=sorted(str(each) for each in given)
        )

    def renew(self) -> None:
        """Ask for tokens, unless that is under way."""
        if self._renewal is None and not self._cut:
            self._renewal = _Delivery("renew", service_manager.RENEW, {}, uuid.uuid4().hex)
            self._attempt(self._renewal)

    def report(self, key: str, attributes: dict[str, Any], request_id: str) -> None:
        """Tell of a phase; one that waits to be told is told at once, one that is being told is told once more.

        Raises:
            ValueError, KeyError: the attributes are not those of the wire's REPORT.
        """
        if self._cut:
            return
        pending = self._reports.get(key)
        if pending is None:
            self._reports[key] = pending = _Delivery("report", service_manager.REPORT, attributes, request_id)
            self._attempt(pending)
        elif pending.under_way:
            # It may have been heard before it was asked for again.
            pending.once_more = True
        else:
            self._attempt(pending)

    def _attempt(self, delivery: _Delivery) -> None:
        if self._cut or delivery.under_way:
            return
        if delivery.timer is not None:
            delivery.timer.cancel()
            delivery.timer = None
        token = self._start_token
        if delivery is not self._renewal:
            token = self._tokens.get(tokens.AUDIENCE_SERVICE_MANAGER, "")
            if not token:
                # It is said once the tokens are here.
                self.renew()
                return
        delivery.under_way = True
        delivery.attempts += 1
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": _MEDIA_TYPE,
            "Accept": _MEDIA_TYPE,
            "X-Request-Id": delivery.request_id,
        }
        self._calls.post(
            f"{self._url}?action={delivery.term}",
            headers,
            delivery.document,
            lambda answer: self._answered(delivery, answer),
        )

    def _answered(self, delivery: _Delivery, answer: Answer) -> None:
        with self._lock:
            delivery.under_way = False
            self._journal.call(
                delivery.name,
                self._instance,
                process=self._process,
                status=answer.status,
                error=answer.error,
                attempt=delivery.attempts,
                seconds=answer.seconds,
                request_id=delivery.request_id,
                phase=delivery.attributes.get(service_manager.PHASE),
                generation=delivery.attributes.get(GENERATION),
            )
            # What was said before the process died may have been heard all the same.
            taken = answer.status is not None and answer.status < 300
            if taken and delivery.name == "report":
                self._on_heard(delivery.attributes)
            if self._cut:
                return
            if answer.passing:
                self._again(delivery)
            elif delivery is self._renewal:
                self._renewed(delivery, answer)
            elif answer.status == 401:
                self._tokens.clear()
                self._again(delivery)
            else:
                if not taken and answer.status not in (404, 409):
                    self._refused(delivery, answer)
                if delivery.once_more:
                    delivery.once_more = False
                    self._attempt(delivery)
                    return
                self._reports = {key: each for key, each in self._reports.items() if each is not delivery}

    def _again(self, delivery: _Delivery) -> None:
        seconds = min(_FIRST_DELAY * 2 ** min(delivery.attempts - 1, 10), _LONGEST_DELAY)

        def attempt() -> None:
            with self._lock:
                self._attempt(delivery)

        delivery.timer = self._calls.timers.after(seconds, attempt)

    def _renewed(self, delivery: _Delivery, answer: Answer) -> None:
        if answer.status is None or answer.status >= 300:
            self._renewal = None
            self._reports.clear()
            # 403 and 404: the instance is gone, as it may be when an orchestrator starts late.
            if answer.status not in (403, 404):
                self._refused(delivery, answer)
            return
        given = _tokens_in(answer.body)
        if tokens.AUDIENCE_SERVICE_MANAGER not in given:
            self._journal.violation(
                f"the answer to renew has no token for {tokens.AUDIENCE_SERVICE_MANAGER} in {service_manager.TOKENS}",
                self._instance,
            )
            self._again(delivery)
            return
        self._renewal = None
        self.take_tokens(given)
        for waiting in list(self._reports.values()):
            if waiting.timer is None:
                self._attempt(waiting)

    def _refused(self, delivery: _Delivery, answer: Answer) -> None:
        self._journal.violation(
            f"{delivery.name} was refused with {answer.status}: {answer.body[:500].decode(errors='replace')}",
            self._instance,
            process=self._process,
        )


def _tokens_in(body: bytes) -> dict[str, str]:
    """The tokens in what `renew` answers: the instance, with the attribute `tokens`."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    attributes = document.get("attributes") if isinstance(document, dict) else None
    given = attributes.get(service_manager.TOKENS) if isinstance(attributes, dict) else None
    return given if isinstance(given, dict) else {}
