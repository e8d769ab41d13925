"""The work on applications: start or adopt through the platform, mirror the state into the entity, remove and verify.

Each step is one short poll. The platform backs off restarts while its supervisor lives; this handler does once that has ended.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import deploy
from archelon_core.backoff import Backoff
from archelon_core.errors import HttpError
from archelon_core.queue import Done, Item, Progress, Wait

from ..core.entities import Entities
from ..core.notifications import Notifications
from ..core.resource_handler import ResourceHandler
from ..core.resources import ABSENT, STOPPED, Object, Objects
from ..platforms.interface import ApplicationOrder, Applications, ApplicationState, DeployError
from .applications import RUN, TOPIC, environment_of
from .bundles import Unpacked

#: Longest pause in seconds between polls of a failed application: it may recover by itself.
_FAILED: Final = 1.0
_SOONEST: Final = 0.1
#: Pause in seconds before a failed removal is repeated.
_REMOVAL: Final = 5.0
#: Backoff before a failed application is restarted.
_PAUSES: Final = Backoff(1.0, longest=60.0)


@dataclass(frozen=True)
class WantedApplication:
    """An application as it should be, and as it is shown; the step unpacks the bundle of the digest."""

    present: Object
    shown: Mapping[str, Any]
    digest: str
    image: str
    environment: Mapping[str, str]
    hosting: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ObservedApplication:
    """The state that a step observed, and the one that was shown before; `state` None: verified absent."""

    present: Object
    shown: Mapping[str, Any]
    state: ApplicationState | None
    kept: Mapping[str, Any]


class ApplicationWork(ResourceHandler[WantedApplication, ObservedApplication]):
    """The handler of applications. `clock` returns seconds since the epoch, `chance` numbers in [0, 1)."""

    topic = TOPIC

    def __init__(
        self,
        objects: Objects,
        entities: Entities,
        notices: Notifications,
        *,
        applications: Applications,
        unpacked: Unpacked,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(objects, entities)
        self._notices = notices
        self._applications = applications
        self._unpacked = unpacked
        self._clock = clock
        self._chance = chance

    def read(self, connection: sa.Connection, present: Object) -> WantedApplication:
        """Return the application's row and entity."""
        attributes = self.entities.attributes(connection, present)
        image = str(attributes.get(deploy.BUNDLE_IMAGE) or attributes.get(deploy.APP_IMAGE) or "")
        digest = str(attributes.get(deploy.BUNDLE_DIGEST) or "")
        if len(image) == 64 and "/" not in image and not digest:
            digest, image = image, ""
        shown = {name: attributes.get(name) for name in (deploy.APP_URL, deploy.APP_STATE, deploy.APP_STATE_MESSAGE)}
        hosting = str(attributes.get(deploy.APPLICATION_HOSTING) or "")
        try:
            return WantedApplication(present, shown, digest, image, environment_of(attributes), hosting)
        except HttpError as error:
            return WantedApplication(present, shown, digest, image, {}, problem=error.message)

    def step(self, wanted: WantedApplication) -> Progress[ObservedApplication]:
        """Poll the application once, and act on its state."""
        present, shown = wanted.present, wanted.shown
        instance = present.labels.instance
        if present.wanted == ABSENT:
            try:
                gone = self._applications.remove(instance)
            except DeployError as problem:
                return Wait(
                    _REMOVAL,
                    ObservedApplication(present, shown, ApplicationState("error", str(problem)), present.kept),
                )
            if not gone or self._applications.state(instance) is not None:
                return Wait(self._applications.poll_intervals.in_progress)
            return Done(ObservedApplication(present, shown, None, {}))
        kept = dict(present.kept)
        if present.wanted == STOPPED:
            ended = self._applications.stop(instance)
            state = ApplicationState("inactive", "" if ended else "is stopping")
            kept.update(going=not ended, url="")
            seen = ObservedApplication(present, shown, state, kept)
            return Done(seen) if ended else Wait(self._applications.poll_intervals.in_progress, seen)
        try:
            state = self._ensure_running(wanted, kept)
        except DeployError as problem:
            state = ApplicationState("error", str(problem))
            self._count_failure(kept)
        kept["url"] = state.url
        return Wait(self._pause(state, kept), ObservedApplication(present, shown, state, kept))

    def _ensure_running(self, wanted: WantedApplication, kept: dict[str, Any]) -> ApplicationState:
        present = wanted.present
        instance = present.labels.instance
        run = present.asked.get(RUN, 0)
        if kept.get("run", run) != run:
            if not self._applications.stop(instance):
                return ApplicationState("inactive", "is stopping, to be started again")
            kept["going"] = False
        state = self._applications.state(instance) if kept.get("going") else None
        if state is not None and state.state == "inactive" and not state.message:
            # It is wanted and will not start by itself: it exited cleanly when its machine shut down.
            state = None
        if state is not None and state.state == "error":
            if self._clock() < float(kept.get("next", 0.0)):
                return state
            self._count_failure(kept)
            return self._start(wanted)
        if state is None:
            state = self._start(wanted)
            kept.update(going=True, run=run, started=self._clock())
        if state.state == "active":
            kept.update(failures=0, next=0.0)
        return state

    def _start(self, wanted: WantedApplication) -> ApplicationState:
        if wanted.problem:
            raise DeployError(wanted.problem)
        try:
            bundle = str(self._unpacked.path(wanted.digest)) if wanted.digest else ""
        except LookupError as problem:
            raise DeployError(str(problem)) from problem
        return self._applications.start(
            ApplicationOrder(
                wanted.present.labels,
                bundle=bundle,
                archive=functools.partial(self._unpacked.archive, wanted.digest) if wanted.digest else None,
                image=wanted.image,
                environment=wanted.environment,
                hosting=wanted.hosting,
            )
        )

    def _count_failure(self, kept: dict[str, Any]) -> None:
        failures = int(kept.get("failures", 0)) + 1
        kept.update(failures=failures, next=self._clock() + _PAUSES.delay(failures))

    def _pause(self, state: ApplicationState, kept: Mapping[str, Any]) -> float:
        intervals = self._applications.poll_intervals
        if state.state == "active":
            # Spread, so that applications that were started together are not all polled at once.
            return intervals.steady * (1 - self._chance() / 4)
        if state.state == "error":
            left = float(kept.get("next", 0.0)) - self._clock()
            return max(_SOONEST, min(left, max(_FAILED, intervals.in_progress)))
        # The orchestrator itself tells its service manager when it is up; this state is for people.
        return max(intervals.in_progress, min(intervals.steady, self._clock() - float(kept.get("started", 0.0))))

    def save(self, connection: sa.Connection, item: Item, observed: ObservedApplication) -> None:
        """Mirror the observation into the entity, or delete both if the application is gone."""
        present = observed.present
        if observed.state is None:
            self._notices.drop(connection, present.labels.instance)
            self.remove(connection, present)
            return
        shown = {
            deploy.APP_URL: observed.state.url or None,
            deploy.APP_STATE: observed.state.state,
            deploy.APP_STATE_MESSAGE: observed.state.message or None,
        }
        if shown != observed.shown:
            if not self.objects.is_current(connection, present):
                # A state observed before a newer order is not that order's.
                shown = {deploy.APP_URL: shown[deploy.APP_URL]}
            self.entities.write(connection, present, shown)
        if observed.kept != present.kept:
            self.objects.keep(connection, present, observed.kept)
