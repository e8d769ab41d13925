"""The supervisor restarts killed processes, kills stubborn ones, and no process outlives it."""

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
def messages() -> list[str]:
    return []


@pytest.fixture
def supervisor(messages: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(messages.append)
    yield made
    made.stop(grace=0.1)


def program(directory: Path, code: str, name: str = "one") -> Program:
    return Program(name, "builtins:exec", [code], [name], {**os.environ}, directory / f"{name}.log")


def starts(directory: Path, name: str = "one") -> int:
    log = directory / f"{name}.log"
    return log.read_text().count("up") if log.exists() else 0


def test_a_killed_process_is_restarted(supervisor: Supervisor, messages: list[str], tmp_path: Path) -> None:
    supervisor.start(program(tmp_path, _SLEEPER))
    until(lambda: starts(tmp_path) == 1, "it is up")
    killed = supervisor.kill("one")
    until(lambda: starts(tmp_path) == 2, "it is up again")
    assert supervisor.pid("one") != killed
    assert supervisor.ends("one") == 1
    assert len(messages) == 1
    assert messages[0].startswith("one exited (killed by SIGKILL); restarting")


def test_children_of_a_killed_process_are_terminated_before_the_restart(supervisor: Supervisor, tmp_path: Path) -> None:
    forks = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {_SLEEPER!r}]); {_SLEEPER}"
    supervisor.start(program(tmp_path, forks))
    until(lambda: starts(tmp_path) == 2, "both are up")
    parent = psutil.Process(supervisor.pid("one"))
    (child,) = parent.children()
    parent.kill()
    until(lambda: not child.is_running(), "the child has exited")
    until(lambda: starts(tmp_path) == 4, "both are up again")


def test_restarts_back_off(messages: list[str], tmp_path: Path) -> None:
    times = tmp_path / "times"
    code = f"import time; open({str(times)!r}, 'a').write(f'{{time.time()}}\\n'); raise SystemExit(3)"
    ended: list[float] = []

    def record(line: str) -> None:
        ended.append(time.time())
        messages.append(line)

    supervisor = Supervisor(record)
    try:
        supervisor.start(program(tmp_path, code))
        until(lambda: len(messages) >= 4, "it exited four times")
    finally:
        supervisor.stop()
    begun = [float(line) for line in times.read_text().split()]
    # From an exit to the next start, which a loaded machine can only delay.
    for pause, end, begin in zip((0.1, 0.2, 0.4), ended, begun[1:], strict=False):
        assert begin - end >= pause
    assert "status 3" in messages[0]


def test_the_backoff_is_reset_after_a_while(messages: list[str], tmp_path: Path) -> None:
    now = [0.0]
    ended: list[float] = []

    def record(line: str) -> None:
        ended.append(time.monotonic())
        messages.append(line)

    # This clock advances by a minute between a start and an exit.
    def clock() -> float:
        now[0] += 60.0
        return now[0]

    supervisor = Supervisor(record, clock=clock)
    code = "print('up', flush=True)"
    try:
        supervisor.start(program(tmp_path, code))
        # With doubled pauses, the eleventh exit would come after a minute and a half.
        until(lambda: len(messages) >= 11, "it exited eleven times", seconds=60)
    finally:
        supervisor.stop(grace=60.0 * 60)


def test_a_failed_restart_is_reported_and_retried(supervisor: Supervisor, messages: list[str], tmp_path: Path) -> None:
    logs, away = tmp_path / "logs", tmp_path / "away"
    logs.mkdir()
    supervisor.start(program(logs, _SLEEPER))
    until(lambda: starts(logs) == 1, "it is up")
    logs.rename(away)
    supervisor.kill("one")
    until(lambda: any("cannot be started: No such file" in line for line in messages), "the failure is reported")
    away.rename(logs)
    until(lambda: starts(logs) == 2, "it is up again")


def test_logs_are_rotated(messages: list[str], tmp_path: Path) -> None:
    supervisor = Supervisor(messages.append, log_limit=10_000, rotation_interval=0.05)
    code = "import time\nwhile True: print('up' * 100, flush=True); time.sleep(0.001)"
    log, before = tmp_path / "one.log", tmp_path / "one.log.1"
    try:
        supervisor.start(program(tmp_path, code))
        until(before.exists, "it was rotated")
        until(lambda: log.stat().st_size > 0, "it is written to")
        # Writing continues at the start, not after a hole.
        assert not log.read_bytes().startswith(b"\0")
        assert [path.stat().st_mode & 0o777 for path in (log, before)] == [0o600, 0o600]
        assert supervisor.ends("one") == 0
    finally:
        supervisor.stop()


def test_stop_reports_killed_processes(supervisor: Supervisor, messages: list[str], tmp_path: Path) -> None:
    supervisor.start(program(tmp_path, _SLEEPER, "meek"))
    supervisor.start(program(tmp_path, _STUBBORN, "stubborn"))
    until(lambda: starts(tmp_path, "meek") and starts(tmp_path, "stubborn"), "both are up")
    pids = [supervisor.pid("meek"), supervisor.pid("stubborn")]
    assert supervisor.stop(grace=1.0) == ["stubborn"]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    # Nothing was restarted during the stop.
    assert messages == []


def test_a_second_stop_closes_no_reused_descriptors(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.stop()
    with (tmp_path / "one").open("w") as one, (tmp_path / "two").open("w") as two:
        supervisor.stop()
        for each in (one, two):
            each.write("still open")
            each.flush()


def test_no_process_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    child = "import os, time; print('up', os.getpid(), flush=True); time.sleep(600)"
    parent = (
        "import sys, os, time; from pathlib import Path; from archelon.supervision import Program, Supervisor; "
        f"s = Supervisor(print); s.start(Program('one', 'builtins:exec', [{child!r}], ['one'], dict(os.environ), "
        f"Path({str(tmp_path / 'one.log')!r}))); time.sleep(600)"
    )
    running = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until(lambda: starts(tmp_path) == 1, "the child is up")
        pid = int((tmp_path / "one.log").read_text().split()[1])
        running.send_signal(signal.SIGKILL)
        running.wait()
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it exited")
    finally:
        running.kill()
        running.wait()
