"""Readiness: outcomes, timeouts, and that a hanging check occupies one thread only."""

from __future__ import annotations

import logging
import threading

import pytest

from archelon_core import health
from archelon_core.errors import UnavailableError
from tests.waiting import until


def test_outcomes_name_only_the_failed_check() -> None:
    def fails() -> None:
        raise OSError("postgresql://user:hunter2@host")

    checks = [health.Check("a", lambda: None, timeout=60), health.Check("b", fails, timeout=60)]
    status, body = health.Readiness(checks).response()
    assert status == 503
    assert body == b'{"ready": false, "checks": {"a": "ok", "b": "failed (OSError)"}}'


def test_an_error_for_clients_is_shown_with_its_text() -> None:
    def fails() -> None:
        raise UnavailableError("the disk is full")

    outcome = health.Readiness([health.Check("a", fails, timeout=60)]).outcomes()[0]
    assert outcome == health.CheckOutcome("a", "failed: the disk is full")


def test_a_text_of_a_check_is_shown_and_counts_as_ready() -> None:
    checks = [health.Check("a", lambda: "by half", timeout=60), health.Check("b", lambda: 3, timeout=60)]
    assert health.Readiness(checks).response() == (200, b'{"ready": true, "checks": {"a": "by half", "b": "ok"}}')


def test_a_hanging_check_is_not_started_again() -> None:
    release = threading.Event()
    runs: list[int] = []

    def hangs() -> None:
        runs.append(1)
        release.wait(60)

    readiness = health.Readiness([health.Check("slow", hangs, timeout=0.05)])
    for _ in range(4):
        assert readiness.outcomes() == [health.CheckOutcome("slow", "no answer within 0.05 s")]
    assert until(lambda: runs, "it was started") == [1]
    release.set()
    for thread in threading.enumerate():
        if thread.name == "check-slow":
            thread.join(60)
    # Started again; on a busy machine that alone may exceed its timeout.
    until(lambda: readiness.outcomes() == [health.CheckOutcome("slow", "ok", ok=True)], "it passes again")
    assert len(runs) > 1


def test_checks_run_concurrently() -> None:
    barrier = threading.Barrier(3)
    checks = [health.Check(name, lambda: barrier.wait(60), timeout=60) for name in "abc"]
    assert all(outcome.ok for outcome in health.Readiness(checks).outcomes())


def test_a_failure_is_logged_once_until_it_passes(caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def probe() -> None:
        if broken:
            raise OSError("no")

    readiness = health.Readiness([health.Check("database", probe, timeout=60)])
    with caplog.at_level(logging.INFO, logger="archelon_core.health"):
        for state in (True, True, False, False, True):
            broken = state
            readiness.outcomes()
    assert [record.message for record in caplog.records] == [
        "readiness check fails",
        "readiness check passes again",
        "readiness check fails",
    ]


def test_two_checks_with_one_name_raise() -> None:
    with pytest.raises(ValueError, match="same name"):
        health.Readiness([health.Check("a", lambda: None), health.Check("a", lambda: None)])
