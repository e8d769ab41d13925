"""What keeps processes running: a killed one comes again, a stubborn one is ended, nobody outlives the supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from archelon.supervision import Program, Supervisor
from tests.waiting import until

from .harness import ROOT

_SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
_STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def supervisor(told: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(told.append)
    yield made
    made.stop(grace=0.1)


def program(directory: Path, code: str, name: str = "one") -> Program:
    return Program(name, [sys.executable, "-c", code], {**os.environ}, directory / f"{name}.log")


def ups(directory: Path, name: str = "one") -> int:
    log = directory / f"{name}.log"
    return log.read_text().count("up") if log.exists() else 0


def test_a_killed_one_is_started_again(supervisor: Supervisor, told: list[str], tmp_path: Path) -> None:
    supervisor.start(program(tmp_path, _SLEEPER))
    until(lambda: ups(tmp_path) == 1, "it is up")
    killed = supervisor.kill("one")
    until(lambda: ups(tmp_path) == 2, "it is up again")
    assert supervisor.pid("one") != killed
    assert supervisor.ends("one") == 1
    assert len(told) == 1
    assert told[0].startswith("one ended (killed by SIGKILL) and is started again")


def test_what_a_killed_one_forked_is_asked_to_end_before_the_next_starts(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    forks = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {_SLEEPER!r}]); {_SLEEPER}"
    supervisor.start(program(tmp_path, forks))
    until(lambda: ups(tmp_path) == 2, "both are up")
    parent = psutil.Process(supervisor.pid("one"))
    (child,) = parent.children()
    parent.kill()
    until(lambda: not child.is_running(), "what it forked has ended")
    until(lambda: ups(tmp_path) == 4, "both are up again")


def test_one_that_keeps_ending_is_tried_ever_less(told: list[str], tmp_path: Path) -> None:
    times = tmp_path / "times"
    code = f"import time; open({str(times)!r}, 'a').write(f'{{time.time()}}\\n'); raise SystemExit(3)"
    ended: list[float] = []

    def note(line: str) -> None:
        ended.append(time.time())
        told.append(line)

    supervisor = Supervisor(note)
    try:
        supervisor.start(program(tmp_path, code))
        until(lambda: len(told) >= 4, "it ended four times")
    finally:
        supervisor.stop()
    begun = [float(line) for line in times.read_text().split()]
    # From the end of one to the beginning of the next, which a loaded machine can only make longer.
    for pause, end, begin in zip((0.1, 0.2, 0.4), ended, begun[1:], strict=False):
        assert begin - end >= pause
    assert "status 3" in told[0]


def test_one_that_ran_for_a_while_is_started_again_soon_however_often_it_ended(told: list[str], tmp_path: Path) -> None:
    now = [0.0]
    ended: list[float] = []

    def note(line: str) -> None:
        ended.append(time.monotonic())
        told.append(line)

    # Between a start and an end, this clock goes on by a minute.
    def clock() -> float:
        now[0] += 60.0
        return now[0]

    supervisor = Supervisor(note, clock=clock)
    code = "print('up', flush=True)"
    try:
        supervisor.start(program(tmp_path, code))
        # By doubled pauses, the eleventh would come after a minute and a half.
        until(lambda: len(told) >= 11, "it ended eleven times", seconds=60)
    finally:
        supervisor.stop(grace=60.0 * 60)


def test_one_that_cannot_be_started_again_is_told_and_tried_further(
    supervisor: Supervisor, told: list[str], tmp_path: Path
) -> None:
    logs, away = tmp_path / "logs", tmp_path / "away"
    logs.mkdir()
    supervisor.start(program(logs, _SLEEPER))
    until(lambda: ups(logs) == 1, "it is up")
    logs.rename(away)
    supervisor.kill("one")
    until(lambda: any("cannot be started: No such file" in line for line in told), "it says why not")
    away.rename(logs)
    until(lambda: ups(logs) == 2, "it is up again")


def test_a_log_that_grows_is_cut_and_the_one_before_kept(told: list[str], tmp_path: Path) -> None:
    supervisor = Supervisor(told.append, log_limit=10_000, tidy_every=0.05)
    code = "import time\nwhile True: print('up' * 100, flush=True); time.sleep(0.001)"
    log, before = tmp_path / "one.log", tmp_path / "one.log.1"
    try:
        supervisor.start(program(tmp_path, code))
        until(before.exists, "it was cut")
        until(lambda: log.stat().st_size > 0, "it is written to")
        # What comes after a cut is at the beginning, not behind a hole.
        assert not log.read_bytes().startswith(b"\0")
        assert [path.stat().st_mode & 0o777 for path in (log, before)] == [0o600, 0o600]
        assert supervisor.ends("one") == 0
    finally:
        supervisor.stop()


def test_stop_ends_all_and_says_who_had_to_be_killed(supervisor: Supervisor, told: list[str], tmp_path: Path) -> None:
    supervisor.start(program(tmp_path, _SLEEPER, "meek"))
    supervisor.start(program(tmp_path, _STUBBORN, "stubborn"))
    until(lambda: ups(tmp_path, "meek") and ups(tmp_path, "stubborn"), "both are up")
    pids = [supervisor.pid("meek"), supervisor.pid("stubborn")]
    assert supervisor.stop(grace=1.0) == ["stubborn"]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    # Nobody was started again on the way out.
    assert told == []


def test_stopped_again_it_closes_nothing_of_others(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.stop()
    with (tmp_path / "one").open("w") as one, (tmp_path / "two").open("w") as two:
        supervisor.stop()
        for each in (one, two):
            each.write("still open")
            each.flush()


def test_nobody_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    child = (
        "import os, signal, time; from archelon.supervision import end_with_parent; "
        "end_with_parent(os.environ, interrupt=lambda: os.kill(os.getpid(), signal.SIGTERM)); "
        "print('up', os.getpid(), flush=True); time.sleep(600)"
    )
    parent = (
        "import sys, os, time; from pathlib import Path; from archelon.supervision import Program, Supervisor; "
        f"s = Supervisor(print); s.start(Program('one', [sys.executable, '-c', {child!r}], dict(os.environ), "
        f"Path({str(tmp_path / 'one.log')!r}))); time.sleep(600)"
    )
    running = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until(lambda: ups(tmp_path) == 1, "the child is up")
        pid = int((tmp_path / "one.log").read_text().split()[1])
        running.send_signal(signal.SIGKILL)
        running.wait()
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it ended")
    finally:
        running.kill()
        running.wait()
