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
from archelon_core.errors import HttpError
from archelon_core.queue import Done, Item, Progress, Retry, Topic, Wait

from ..core.entities import Entities
from ..core.notifications import Notices
from ..core.resources import ABSENT, STOPPED, Object, Objects
from ..platforms.interface import ApplicationOrder, Applications, ApplicationState, DeployError
from .applications import RUN, TOPIC, environment_of
from .bundles import Unpacked

#: Seconds between looks at a failed one, at most: it may have come back by itself.
_FAILED: Final = 1.0
_SOONEST: Final = 0.1
_LONGEST_PAUSE: Final = 60.0


@dataclass(frozen=True)
class Wanted:
    """An application as it should be; the digest's bundle is unpacked by the step."""

    present: Object
    digest: str
    image: str
    environment: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True)
class Seen:
    """What a step saw; `state` None: verified absent."""

    present: Object
    state: ApplicationState | None
    kept: Mapping[str, Any]


class ApplicationWork:
    """The handler.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        objects: Objects,
        entities: Entities,
        notices: Notices,
        *,
        applications: Applications,
        unpacked: Unpacked,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._entities = entities
        self._notices = notices
        self._applications = applications
        self._unpacked = unpacked
        self._clock = clock

    def load(self, connection: sa.Connection, item: Item) -> tuple[Wanted, None] | None:
        """The application's row and entity."""
        present = self._objects.find(connection, item.key)
        if present is None:
            return None
        attributes = self._entities.attributes(connection, present)
        image = str(attributes.get(deploy.BUNDLE_IMAGE) or attributes.get(deploy.APP_IMAGE) or "")
        digest = str(attributes.get(deploy.BUNDLE_DIGEST) or "")
        if len(image) == 64 and "/" not in image and not digest:
            digest, image = image, ""
        try:
            return Wanted(present, digest, image, environment_of(attributes)), None
        except HttpError as error:
            return Wanted(present, digest, image, {}, problem=error.message), None

    def step(self, wanted: Wanted, observed: None) -> Progress[Seen]:
        """One look, and what follows from it."""
        present = wanted.present
        instance = present.labels.instance
        if present.wanted == ABSENT:
            try:
                gone = self._applications.remove(instance)
            except DeployError as problem:
                return Wait(
                    self._applications.pace.standing,
                    Seen(present, ApplicationState("error", str(problem)), present.kept),
                )
            if not gone or self._applications.state(instance) is not None:
                return Wait(self._applications.pace.under_way)
            return Done(Seen(present, None, {}))
        kept = dict(present.kept)
        if present.wanted == STOPPED:
            ended = self._applications.stop(instance)
            state = ApplicationState("inactive", "" if ended else "is stopping")
            kept.update(going=not ended, url="")
            seen = Seen(present, state, kept)
            return Done(seen) if ended else Wait(self._applications.pace.under_way, seen)
        try:
            state = self._going(wanted, kept)
        except DeployError as problem:
            state = ApplicationState("error", str(problem))
            self._failed(kept)
        kept["url"] = state.url
        return Wait(self._pause(state, kept), Seen(present, state, kept))

    def _going(self, wanted: Wanted, kept: dict[str, Any]) -> ApplicationState:
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

    def _started(self, wanted: Wanted) -> ApplicationState:
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
        kept.update(failures=failures, next=self._clock() + min(_LONGEST_PAUSE, 0.5 * 2.0 ** min(failures, 10)))

    def _pause(self, state: ApplicationState, kept: Mapping[str, Any]) -> float:
        pace = self._applications.pace
        if state.state == "active":
            return pace.standing
        if state.state == "error":
            left = float(kept.get("next", 0.0)) - self._clock()
            return max(_SOONEST, min(left, max(_FAILED, pace.under_way)))
        return pace.under_way

    def save(self, connection: sa.Connection, item: Item, observed: Seen) -> None:
        """Mirror it into the entity, or forget what is gone."""
        present = observed.present
        if observed.state is None:
            self._entities.remove(connection, present)
            self._objects.remove(connection, present.path)
            self._notices.drop(connection, present.labels.instance)
            return
        # A state that was seen before a newer order is not shown as that order's.
        shown = self._shown(observed.state)
        current = self._objects.find(connection, present.path)
        if current is None or current.version != present.version:
            shown.pop(deploy.APP_STATE)
            shown.pop(deploy.APP_STATE_MESSAGE)
        self._entities.write(connection, present, shown)
        if observed.kept != present.kept:
            self._objects.keep(connection, present, observed.kept)

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Say why."""
        present = self._objects.find(connection, item.key)
        if present is not None:
            self._entities.write(connection, present, self._shown(ApplicationState("error", reason)))

    @staticmethod
    def _shown(state: ApplicationState) -> dict[str, Any]:
        return {
            deploy.APP_STATE: state.state,
            deploy.APP_STATE_MESSAGE: state.message or None,
            deploy.APP_URL: state.url or None,
        }


def topic(work: ApplicationWork) -> Topic[Any, Any]:
    """Applications' topic. It is never given up: an application is looked after as long as it is wanted."""
    return Topic(TOPIC, work, timeout=60.0, retry=Retry(attempts=2**31 - 1, first=0.5, ceiling=30.0))
