"""Calls to orchestrators: the limits of one that is silent, slow or busy, by a clock that the test advances."""

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
    """All clients that were created, in order."""
    return []


@pytest.fixture
def limiter(clock: Clock, opened: list[client.Client]) -> CallLimiter:
    def connect(address: str) -> client.Client:
        opened.append(client.Client(address))
        return opened[-1]

    return CallLimiter(connect, threads=THREADS, monotonic=clock)


def call(
    limiter: CallLimiter, instance: str = "one", *, tenant: str = "acme", start: int = 1
) -> contextlib.AbstractContextManager[client.Client]:
    return limiter.call(instance, f"http://127.0.0.1:9/{instance}", tenant=tenant, start=start)


def responds(
    limiter: CallLimiter, clock: Clock, instance: str = "one", *, after: float = 0.0, tenant: str = "acme"
) -> None:
    with call(limiter, instance, tenant=tenant):
        clock.now += after


def times_out(
    limiter: CallLimiter,
    clock: Clock,
    instance: str = "one",
    *,
    after: float = 5.0,
    tenant: str = "acme",
    start: int = 1,
) -> None:
    with pytest.raises(client.TimedOutError), call(limiter, instance, tenant=tenant, start=start):
        clock.now += after
        raise client.TimedOutError("nothing came", method="POST", url="http://127.0.0.1:9")


def rejected(limiter: CallLimiter, instance: str = "one", *, tenant: str = "acme") -> float:
    with pytest.raises(CircuitOpenError) as refused, call(limiter, instance, tenant=tenant):
        raise AssertionError("the call was permitted")
    assert instance in str(refused.value)
    return refused.value.seconds


def test_the_circuit_of_a_silent_orchestrator_is_open_twice_as_long_each_time(
    limiter: CallLimiter, clock: Clock
) -> None:
    pauses = []
    for _ in range(8):
        times_out(limiter, clock)
        pauses.append(rejected(limiter))
        clock.now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_the_circuit_closes_after_a_response(limiter: CallLimiter, clock: Clock) -> None:
    for _ in range(3):
        times_out(limiter, clock)
        clock.now += rejected(limiter)
    responds(limiter, clock)
    responds(limiter, clock)
    times_out(limiter, clock)
    assert rejected(limiter) == 1


def test_a_refused_connection_does_not_open_the_circuit(limiter: CallLimiter, clock: Clock) -> None:
    """A container that is starting refuses connections; the backoff of the work is sufficient."""
    with pytest.raises(client.TransportError), call(limiter):
        raise client.TransportError("refused", method="POST", url="http://127.0.0.1:9")
    responds(limiter, clock)


def test_a_restarted_orchestrator_is_a_new_one(limiter: CallLimiter, clock: Clock) -> None:
    times_out(limiter, clock)
    assert rejected(limiter)
    with call(limiter, start=2):
        pass
    # A worker that read the row before the restart uses the same client.
    with call(limiter, start=1):
        pass


def test_one_that_has_not_responded_yet_gets_one_call_at_a_time(limiter: CallLimiter, clock: Clock) -> None:
    with call(limiter):
        assert 0 < rejected(limiter) < 1
    with contextlib.ExitStack() as calls:
        for _ in range(THREADS // 2):
            calls.enter_context(call(limiter))
        assert 0 < rejected(limiter) < 1
    with call(limiter):
        clock.now += 4.9
    # A slow response counts like none for the other threads.
    with call(limiter):
        assert rejected(limiter)


def test_a_tenant_with_silent_orchestrators_has_a_quarter_of_the_threads(limiter: CallLimiter, clock: Clock) -> None:
    responds(limiter, clock, "healthy")
    times_out(limiter, clock, "silent")
    with contextlib.ExitStack() as calls:
        for name in range(THREADS // 4):
            calls.enter_context(call(limiter, f"new-{name}"))
        retries = [rejected(limiter, f"deferred-{each}") for each in range(3)]
        assert retries == pytest.approx([0.1, 0.2, 0.3])
        responds(limiter, clock, "healthy")
        responds(limiter, clock, "another-tenants", tenant="umbrella")
    responds(limiter, clock, "new-again")
    clock.now += 60
    with contextlib.ExitStack() as calls:
        for name in range(THREADS):
            calls.enter_context(call(limiter, f"later-{name}"))


def test_retries_are_within_half_a_minute(limiter: CallLimiter, clock: Clock) -> None:
    times_out(limiter, clock, "silent")
    with call(limiter, "a"), call(limiter, "b"):
        assert max(rejected(limiter, f"deferred-{each}") for each in range(1000)) == pytest.approx(30)


def test_unused_connections_are_closed(limiter: CallLimiter, clock: Clock, opened: list[client.Client]) -> None:
    with call(limiter, "in-use"):
        for each in range(1000):
            responds(limiter, clock, f"instance-{each}")
        with pytest.raises(CircuitOpenError), call(limiter, "in-use"):
            pass
    assert len(opened) == 1001
    responds(limiter, clock, "instance-999")
    assert len(opened) == 1001
    responds(limiter, clock, "instance-0")
    assert len(opened) == 1002
    limiter.close("instance-0")
    responds(limiter, clock, "instance-0")
    assert len(opened) == 1003


def test_other_tenants_are_forgotten_after_their_limit_ends(limiter: CallLimiter, clock: Clock) -> None:
    for each in range(50):
        times_out(limiter, clock, f"instance-{each}", tenant=f"tenant {each}")
    clock.now += 61
    responds(limiter, clock, tenant="new")
    assert len(limiter._tenants) == 1


@pytest.fixture(autouse=True)
def _closed(opened: list[client.Client]) -> Iterator[None]:
    yield
    for each in opened:
        each.close()
