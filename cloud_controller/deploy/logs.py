"""The output of an orchestrator, from where the reader has got to: `/application/<id>/logs?since=<position>`, or `/app/…`.

The answer's `X-Next` says where to go on. With `follow=1` an answer waits, within bounds, until there is something to tell, so
that a reader who asks again and again sees every line soon, and no thread is held for ever. More than a few readers at once are
answered without waiting: threads are there for other requests too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import falcon

from occi_service.errors import BadRequestError, NotFoundError, shown
from occi_service.registry.base import Registry
from occi_service.wire import deploy

from ..module import extras_of
from .ports import Applications, Log

__all__ = ["LogRoute"]

#: Some platforms count nanoseconds since the epoch.
_MOST: Final = 2**63 - 1


class LogRoute:
    """Serves logs.

    Args:
        registry: says whose application it is.
        applications: reads.
        location: of the kind that the application is of.
        patience: seconds that a following reader waits for news.
        interval: seconds between looks.
        followers: readers of this process that may wait at once.
        clock, sleep: time.
    """

    def __init__(
        self,
        registry: Registry,
        applications: Applications,
        *,
        location: str = deploy.APPLICATION.location,
        patience: float = 20.0,
        interval: float = 0.25,
        followers: int = 4,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry = registry
        self._applications = applications
        self._location = location
        self._patience = patience
        self._interval = interval
        self._places = threading.BoundedSemaphore(followers)
        self._clock = clock
        self._sleep = sleep

    def on_get(self, req: falcon.Request, resp: falcon.Response, instance: str) -> None:
        """Output from `since` on."""
        extras: dict[str, Any] = extras_of(req.env)
        try:
            self._registry.get_resource(f"{self._location}{instance}", extras)
        except KeyError:
            raise NotFoundError(f"there is no application {shown(instance)}", "path") from None
        since = _since(req.get_param("since", default="0"))
        found = self._applications.read_log(instance, since)
        if not found.data and req.get_param("follow") == "1" and self._places.acquire(blocking=False):
            try:
                found = self._follow(instance, since)
            finally:
                self._places.release()
        resp.content_type = "text/plain; charset=utf-8"
        resp.set_header(deploy.LOG_START, str(found.start))
        resp.set_header(deploy.LOG_NEXT, str(found.next))
        resp.set_header("Cache-Control", "no-store")
        resp.data = found.data

    def _follow(self, instance: str, since: int) -> Log:
        end = self._clock() + self._patience
        while True:
            self._sleep(self._interval)
            found = self._applications.read_log(instance, since)
            if found.data or self._clock() >= end:
                return found


def _since(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST):
        raise BadRequestError(f"since is {shown(text)}, and has to be a position: a whole number from 0", "query since")
    return int(text)
