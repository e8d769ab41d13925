"""The output of an orchestrator from a position on: `/application/<id>/logs?since=<position>`, or `/app/…`.

The response's `X-Next` is the position to continue from. With `follow=1` a response waits, for a limited time, until there is
output, so that a polling reader gets every line soon and no thread is held for ever. Only a few readers may wait at once; others
get an immediate response, which keeps threads free for other requests.
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
    #: A position. Some platforms count nanoseconds since the epoch, which have 19 digits.
    since: Annotated[str, pydantic.StringConstraints(pattern="^[0-9]{1,18}$|^[0-8][0-9]{18}$")] = "0"
    follow: str = ""


class LogRoute:
    """Serves logs of the applications of the kind at `location`.

    A following reader waits for output for `follow_timeout` seconds and polls every `interval` seconds; at most `followers` of
    this process may wait at once.
    """

    def __init__(
        self,
        registry: Registry,
        applications: Applications,
        *,
        location: str = deploy.APPLICATION.location,
        follow_timeout: float = 20.0,
        interval: float = 0.25,
        followers: int = 4,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry = registry
        self._applications = applications
        self._location = location
        self._follow_timeout = follow_timeout
        self._interval = interval
        self._followers = threading.BoundedSemaphore(followers)
        self._clock = clock
        self._sleep = sleep

    def on_get(self, req: falcon.Request, resp: falcon.Response, instance: str) -> None:
        """Return the output from `since` on."""
        extras: dict[str, Any] = extras_of(req.env)
        try:
            self._registry.get_resource(f"{self._location}{instance}", extras)
        except KeyError:
            raise NotFoundError(f"unknown application {shown(instance)}", "path") from None
        asked = read_query(req, _Reading)
        since = int(asked.since)
        found = self._applications.read_log(instance, since)
        if not found.data and asked.follow == "1" and self._followers.acquire(blocking=False):
            try:
                found = self._follow(instance, since)
            finally:
                self._followers.release()
        resp.content_type = "text/plain; charset=utf-8"
        resp.set_header(deploy.LOG_START, str(found.start))
        resp.set_header(deploy.LOG_NEXT, str(found.next))
        resp.set_header("Cache-Control", "no-store")
        resp.data = found.data

    def _follow(self, instance: str, since: int) -> Log:
        end = self._clock() + self._follow_timeout
        while True:
            self._sleep(self._interval)
            found = self._applications.read_log(instance, since)
            if found.data or self._clock() >= end:
                return found
