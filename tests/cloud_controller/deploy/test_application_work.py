"""The work on applications, step by step, on a platform in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

from archelon_core.queue import Wait
from cloud_controller.core.labels import Labels
from cloud_controller.core.resources import Object
from cloud_controller.deploy.application_work import ApplicationWork, WantedApplication
from cloud_controller.deploy.applications import TOPIC
from cloud_controller.platforms.interface import ApplicationOrder, ApplicationState, PollIntervals

_URL = "http://127.0.0.1:9/"


class _Applications:
    """One application, in the state that the test sets."""

    poll_intervals = PollIntervals(in_progress=0.1, steady=5.0)

    def __init__(self) -> None:
        self.present: ApplicationState | None = None

    def start(self, order: ApplicationOrder) -> ApplicationState:
        self.present = ApplicationState("inactive", "is starting", _URL)
        return self.present

    def state(self, instance: str) -> ApplicationState | None:
        return self.present


class _Steps:
    """Steps at a time that the test sets; what one observes, the next gets."""

    def __init__(self, applications: Any) -> None:
        self.now = 1e9
        unused: Any = None
        self._work = ApplicationWork(
            unused, unused, unused, applications=applications, unpacked=unused, clock=lambda: self.now
        )
        present = Object("/application/i-1", TOPIC, Labels("i-1", "t", "s", 1))
        self._wanted = WantedApplication(present, {}, "", "image", {})

    def __call__(self) -> float:
        """Return the seconds until the next step."""
        progress = self._work.step(self._wanted)
        assert isinstance(progress, Wait)
        assert progress.observed is not None
        assert progress.seconds is not None
        kept = dataclasses.replace(self._wanted.present, kept=progress.observed.kept)
        self._wanted = dataclasses.replace(self._wanted, present=kept)
        return progress.seconds


def test_an_application_that_starts_is_polled_ever_more_rarely() -> None:
    applications = _Applications()
    step = _Steps(applications)
    assert step() == 0.1
    for waited, pause in ((0.1, 0.1), (0.5, 0.5), (4.0, 4.0), (60.0, 5.0)):
        step.now = 1e9 + waited
        assert round(step(), 6) == pause
    applications.present = ApplicationState("active", url=_URL)
    assert 3.75 <= step() <= 5.0
