"""The work on applications: start or adopt through the platform, mirror what is seen into the entity, take away and verify.

One look after another, each short. What runs is adopted by whoever looks next; that restarts back off is the platform's business
while its supervisor lives, and this handler's where even that has ended.
"""

from __future__ import annotations

import functools
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

#: Seconds between looks at a failed one, at most: it may have come back by itself.
_FAILED: Final = 1.0
_SOONEST: Final = 0.1
#: Seconds before one that failed is started again.
_PAUSES: Final = Backoff(1.0, longest=60.0)


@dataclass(frozen=True)
class WantedApplication:
    """An application as it should be; the digest's bundle is unpacked by the step."""

    present: Object
    digest: str
    image: str
    environment: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True)
class ObservedApplication:
    """What a step saw; `state` None: verified absent."""

    present: Object
    state: ApplicationState | None
    kept: Mapping[str, Any]


class ApplicationWork(ResourceHandler[WantedApplication, ObservedApplication]):
    """The handler.

    Args:
        clock: seconds since the epoch.
    """

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
    ) -> None:
        super().__init__(objects, entities)
        self._notices = notices
        self._applications = applications
        self._unpacked = unpacked
        self._clock = clock

    def read(self, connection: sa.Connection, present: Object) -> WantedApplication:
        """The application's row and entity."""
        attributes = self.entities.attributes(connection, present)
        image = str(attributes.get(deploy.BUNDLE_IMAGE) or attributes.get(deploy.APP_IMAGE) or "")
        digest = str(attributes.get(deploy.BUNDLE_DIGEST) or "")
        if len(image) == 64 and "/" not in image and not digest:
            digest, image = image, ""
        try:
            return WantedApplication(present, digest, image, environment_of(attributes))
        except HttpError as error:
            return WantedApplication(present, digest, image, {}, problem=error.message)

    def step(self, wanted: WantedApplication) -> Progress[ObservedApplication]:
        """One look, and what follows from it."""
        present = wanted.present
        instance = present.labels.instance
        if present.wanted == ABSENT:
            try:
                gone = self._applications.remove(instance)
            except DeployError as problem:
                return Wait(
                    self._applications.pace.standing,
                    ObservedApplication(present, ApplicationState("error", str(problem)), present.kept),
                )
            if not gone or self._applications.state(instance) is not None:
                return Wait(self._applications.pace.under_way)
            return Done(ObservedApplication(present, None, {}))
        kept = dict(present.kept)
        if present.wanted == STOPPED:
            ended = self._applications.stop(instance)
            state = ApplicationState("inactive", "" if ended else "is stopping")
            kept.update(going=not ended, url="")
            seen = ObservedApplication(present, state, kept)
            return Done(seen) if ended else Wait(self._applications.pace.under_way, seen)
        try:
            state = self._going(wanted, kept)
        except DeployError as problem:
            state = ApplicationState("error", str(problem))
            self._failed(kept)
        kept["url"] = state.url
        return Wait(self._pause(state, kept), ObservedApplication(present, state, kept))

    def _going(self, wanted: WantedApplication, kept: dict[str, Any]) -> ApplicationState:
        present = wanted.present
        instance = present.labels.instance
        run = present.asked.get(RUN, 0)
        if kept.get("run", run) != run:
            if not self._applications.stop(instance):
                return ApplicationState("inactive", "is stopping, to be started again")
            kept["going"] = False
        state = self._applications.state(instance) if kept.get("going") else None
        if state is not None and state.state == "inactive" and not state.message:
            # On no way to anything, and wanted: it ended in good order with its machine, which has come up again.
            state = None
        if state is not None and state.state == "error":
            if self._clock() < float(kept.get("next", 0.0)):
                return state
            self._failed(kept)
            return self._started(wanted)
        if state is None:
            state = self._started(wanted)
            kept.update(going=True, run=run)
        if state.state == "active":
            kept.update(failures=0, next=0.0)
        return state

    def _started(self, wanted: WantedApplication) -> ApplicationState:
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
            )
        )

    def _failed(self, kept: dict[str, Any]) -> None:
        failures = int(kept.get("failures", 0)) + 1
        kept.update(failures=failures, next=self._clock() + _PAUSES.delay(failures))

    def _pause(self, state: ApplicationState, kept: Mapping[str, Any]) -> float:
        pace = self._applications.pace
        if state.state == "active":
            return pace.standing
        if state.state == "error":
            left = float(kept.get("next", 0.0)) - self._clock()
            return max(_SOONEST, min(left, max(_FAILED, pace.under_way)))
        return pace.under_way

    def save(self, connection: sa.Connection, item: Item, observed: ObservedApplication) -> None:
        """Mirror it into the entity, or forget what is gone."""
        present = observed.present
        if observed.state is None:
            self.remove(connection, present)
            self._notices.drop(connection, present.labels.instance)
            return
        # A state that was seen before a newer order is not shown as that order's.
        shown = {deploy.APP_URL: observed.state.url or None}
        if self.objects.is_current(connection, present):
            shown[deploy.APP_STATE] = observed.state.state
            shown[deploy.APP_STATE_MESSAGE] = observed.state.message or None
        self.entities.write(connection, present, shown)
        if observed.kept != present.kept:
            self.objects.keep(connection, present, observed.kept)
