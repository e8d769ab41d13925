"""Calls to orchestrators: what one that is silent, late or busy may take, by a clock that the test moves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from occi_service import client
from service_manager.remote.orchestrator_calls import CallLimiter, CircuitOpenError

THREADS = 8


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened() -> list[client.Client]:
    """All clients that were made, in order."""
    return []


@pytest.fixture
def lines(clock: Clock, opened: list[client.Client]) -> CallLimiter:
    def connect(address: str) -> client.Client:
        opened.append(client.Client(address))
        return opened[-1]

    return CallLimiter(connect, threads=THREADS, monotonic=clock)


def line(
    lines: CallLimiter, instance: str = "one", *, tenant: str = "acme", start: int = 1
) -> contextlib.AbstractContextManager[client.Client]:
    return lines.call(instance, f"http://127.0.0.1:9/{instance}", tenant=tenant, start=start)


def answers(
    lines: CallLimiter, clock: Clock, instance: str = "one", *, after: float = 0.0, tenant: str = "acme"
) -> None:
    with line(lines, instance, tenant=tenant):
        clock.now += after


def is_silent(
    lines: CallLimiter, clock: Clock, instance: str = "one", *, after: float = 5.0, tenant: str = "acme", start: int = 1
) -> None:
    with pytest.raises(client.TimedOutError), line(lines, instance, tenant=tenant, start=start):
        clock.now += after
        raise client.TimedOutError("nothing came", method="POST", url="http://127.0.0.1:9")


def left_alone(lines: CallLimiter, instance: str = "one", *, tenant: str = "acme") -> float:
    with pytest.raises(CircuitOpenError) as refused, line(lines, instance, tenant=tenant):
        raise AssertionError("the call was let through")
    assert instance in str(refused.value)
    return refused.value.seconds


def test_who_does_not_answer_is_left_alone_twice_as_long_each_time(lines: CallLimiter, clock: Clock) -> None:
    pauses = []
    for _ in range(8):
        is_silent(lines, clock)
        pauses.append(left_alone(lines))
        clock.now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_whoever_answers_again_is_called_as_ever(lines: CallLimiter, clock: Clock) -> None:
    for _ in range(3):
        is_silent(lines, clock)
        clock.now += left_alone(lines)
    answers(lines, clock)
    answers(lines, clock)
    is_silent(lines, clock)
    assert left_alone(lines) == 1


def test_a_refused_connection_costs_nobody_a_thread(lines: CallLimiter, clock: Clock) -> None:
    """So is a container that is just coming up; the work's own pauses are enough for it."""
    with pytest.raises(client.TransportError), line(lines):
        raise client.TransportError("refused", method="POST", url="http://127.0.0.1:9")
    answers(lines, clock)


def test_an_orchestrator_that_has_started_anew_is_a_new_one(lines: CallLimiter, clock: Clock) -> None:
    is_silent(lines, clock)
    assert left_alone(lines)
    with line(lines, start=2):
        pass
    # Who has read the row before is late, and calls the same.
    with line(lines, start=1):
        pass


def test_one_that_has_not_answered_yet_is_called_once_at_a_time(lines: CallLimiter, clock: Clock) -> None:
    with line(lines):
        assert 0 < left_alone(lines) < 1
    with contextlib.ExitStack() as calls:
        for _ in range(THREADS // 2):
            calls.enter_context(line(lines))
        assert 0 < left_alone(lines) < 1
    with line(lines):
        clock.now += 4.9
    # It was late: as far as others' threads go, that is not much better than silence.
    with line(lines):
        assert left_alone(lines)


def test_a_tenant_whose_orchestrators_are_silent_keeps_a_quarter_of_the_threads(
    lines: CallLimiter, clock: Clock
) -> None:
    answers(lines, clock, "healthy")
    is_silent(lines, clock, "silent")
    with contextlib.ExitStack() as calls:
        for name in range(THREADS // 4):
            calls.enter_context(line(lines, f"new-{name}"))
        appointments = [left_alone(lines, f"put-off-{each}") for each in range(3)]
        assert appointments == pytest.approx([0.1, 0.2, 0.3])
        answers(lines, clock, "healthy")
        answers(lines, clock, "another-tenants", tenant="umbrella")
    answers(lines, clock, "new-again")
    clock.now += 60
    with contextlib.ExitStack() as calls:
        for name in range(THREADS):
            calls.enter_context(line(lines, f"later-{name}"))


def test_appointments_lie_within_half_a_minute(lines: CallLimiter, clock: Clock) -> None:
    is_silent(lines, clock, "silent")
    with line(lines, "a"), line(lines, "b"):
        assert max(left_alone(lines, f"put-off-{each}") for each in range(1000)) == pytest.approx(30)


def test_lines_that_nobody_uses_are_closed(lines: CallLimiter, clock: Clock, opened: list[client.Client]) -> None:
    with line(lines, "in-use"):
        for each in range(1000):
            answers(lines, clock, f"instance-{each}")
        with pytest.raises(CircuitOpenError), line(lines, "in-use"):
            pass
    assert len(opened) == 1001
    answers(lines, clock, "instance-999")
    assert len(opened) == 1001
    answers(lines, clock, "instance-0")
    assert len(opened) == 1002
    lines.close("instance-0")
    answers(lines, clock, "instance-0")
    assert len(opened) == 1003


def test_other_tenants_are_forgotten_when_their_time_is_over(lines: CallLimiter, clock: Clock) -> None:
    for each in range(50):
        is_silent(lines, clock, f"instance-{each}", tenant=f"tenant {each}")
    clock.now += 61
    answers(lines, clock, tenant="new")
    assert len(lines._tenants) == 1


@pytest.fixture(autouse=True)
def _closed(opened: list[client.Client]) -> Iterator[None]:
    yield
    for each in opened:
        each.close()
