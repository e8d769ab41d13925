"""Functions in a child process: results, limits and failures."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import psutil
import pytest

from archelon_core.child import Child, ChildError

HERE = __name__


def echo(value: object) -> object:
    return value


def process() -> list[object]:
    return [os.getpid(), os.getppid(), sorted(os.environ), os.nice(0)]


def forever() -> None:
    while True:
        pass


def greedy() -> int:
    return len(bytearray(4 << 30))


def exits() -> None:
    os._exit(3)


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child(seconds=60)
    yield made
    made.close()


@pytest.mark.parametrize(
    "value", [None, 1, "text", "ä\u2028\U0001f600\ud800", ["a", {"b": [1.5, True]}], "x" * 1_000_000]
)
def test_json_values_round_trip(child: Child, value: object) -> None:
    assert child.call(f"{HERE}:echo", value) == value


def test_one_process_serves_all_calls_without_environment_at_lower_priority(child: Child) -> None:
    first = child.call(f"{HERE}:process")
    assert child.call(f"{HERE}:process") == first
    pid, parent, environment, nice = first
    assert parent == os.getpid() != pid
    # The interpreter sets variables for its locale by itself.
    assert set(environment) <= {"PYTHONPATH", "LC_CTYPE"}
    assert nice > os.nice(0)


@pytest.mark.parametrize("function", ["greedy", "exits"])
def test_a_child_that_exits_is_reported_and_replaced(child: Child, function: str) -> None:
    before = child.call(f"{HERE}:process")[0]
    with pytest.raises(ChildError, match="exited, or takes more than 512 MiB"):
        child.call(f"{HERE}:{function}")
    assert child.call(f"{HERE}:process")[0] != before


def test_a_call_that_takes_too_long_is_killed() -> None:
    child = Child(seconds=60)
    pid = child.call(f"{HERE}:process")[0]
    child._seconds = 0.2
    with pytest.raises(ChildError, match=r"longer than 0\.2 s"):
        child.call(f"{HERE}:forever")
    assert not psutil.pid_exists(pid)


def test_calls_of_threads_run_one_at_a_time(child: Child) -> None:
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda number=number: answers.append(child.call(f"{HERE}:echo", number)))
        for number in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(map(str, answers)) == list("01234567")


def test_it_exits_with_its_parent(child: Child) -> None:
    pid = child.call(f"{HERE}:process")[0]
    child.close()
    assert not psutil.pid_exists(pid)
    assert child.call(f"{HERE}:echo", 1) == 1
