"""The output of an orchestrator, from where the reader has got to: `/application/<id>/logs?since=<position>`, or `/app/…`.

The answer's `X-Next` says where to go on. With `follow=1` an answer waits, within bounds, until there is something to tell, so
that a reader who asks again and again sees every line soon, and no thread is held for ever. More than a few readers at once are
answered without waiting: threads are there for other requests too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import falcon
import pydantic

from archelon_api import deploy
from archelon_core.errors import NotFoundError, shown
from occi_service.registry.base import Registry
from occi_service.server.request_input import read_query

from ..core.module import extras_of
from ..platforms.interface import Applications, Log


class _Reading(pydantic.BaseModel, extra="forbid"):
    #: A position. Some platforms count nanoseconds since the epoch, which take 19 digits.
    since: Annotated[str, pydantic.StringConstraints(pattern="^[0-9]{1,18}$|^[0-8][0-9]{18}$")] = "0"
    follow: str = ""


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
        asked = read_query(req, _Reading)
        since = int(asked.since)
        found = self._applications.read_log(instance, since)
        if not found.data and asked.follow == "1" and self._places.acquire(blocking=False):
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
