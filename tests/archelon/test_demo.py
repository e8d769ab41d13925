"""The demo as users run it, with a failing step, and interrupted."""

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

from archelon.all_in_one import AllInOne
from archelon.demo.command import perform
from archelon.demo.remains import left
from archelon.demo.scenarios import Scenario, choose
from archelon.demo.stage import ExpectedError, Stage
from archelon.demo.steps import Step
from archelon.errors import CommandError, Status
from archelon.state_directory import StateDirectory
from tests.waiting import until

from .harness import ROOT, first_port


def command(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "archelon", "demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_of(directory: Path) -> list[str]:
    """Processes with a demo's directory as working directory, in their arguments or in their environment."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "environ"]):
        arguments = [
            *(process.info["cmdline"] or []),
            process.info["cwd"] or "",
            *(process.info["environ"] or {}).values(),
        ]
        if process.pid != os.getpid() and any(f"{directory}/archelon-demo-" in each for each in arguments):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def test_it_shows_the_whole_lifecycle_and_leaves_nothing(tmp_path: Path) -> None:
    with command(tmp_path) as running:
        result, _ = running.communicate(timeout=280)
    assert running.returncode == Status.DONE, result
    for words in (
        "POST /guestbook/",
        "→ 201",
        "Archelon was here",
        "nodes of web: 2",
        "kill -9",
        "→ 404",
        "no process, no port",
    ):
        assert words in result, result
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_an_interrupted_demo_stops_everything(tmp_path: Path) -> None:
    with command(tmp_path) as running:
        assert running.stdout is not None
        lines: list[str] = []
        for line in running.stdout:
            lines.append(line)
            if "deploy" in line:
                break
        running.send_signal(signal.SIGTERM)
        rest, _ = running.communicate(timeout=200)
    assert running.returncode == Status.INTERRUPTED, "".join(lines) + rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
    until(lambda: processes_of(tmp_path) == [], "no process is left")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    state = StateDirectory(tmp_path / "state")
    state.make(host="127.0.0.1", first_port=first_port())
    system = AllInOne(state, print)
    made = Stage(state, system, show=print)
    yield made
    made.close()
    system.down()


def test_a_failed_step_reports_the_expectation_and_the_logs(stage: Stage) -> None:
    done: list[str] = []

    def fine(_stage: Stage, scenario: Scenario) -> None:
        done.append(scenario.service)

    def wrong(_stage: Stage, _play: Scenario) -> None:
        raise ExpectedError("the sky was to be green; it is blue")

    steps = [Step("Fine", fine), Step("Wrong", wrong), Step("Never", fine)]
    with pytest.raises(CommandError, match="step 2, 'Wrong', failed: the sky was to be green") as failed:
        perform(stage, choose(), steps, since=time.monotonic())
    assert str(stage.state.logs) in str(failed.value)
    assert done == [choose().service]


def test_a_refused_connection_has_status_0(stage: Stage) -> None:
    assert stage.web("GET", f"http://127.0.0.1:{stage.state.ports().service_manager}/") == (0, "")


def test_left_finds_what_is_left(stage: Stage) -> None:
    stage.system.up()
    assert left(stage.state) == []
    # A process that only its working directory identifies, because its launcher does not know it.
    hidden = stage.state.cloud / "regions" / "local" / "instances" / "i-1"
    hidden.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=hidden)
    try:
        assert [each for each in left(stage.state) if each.startswith(f"process {process.pid}")]
    finally:
        process.kill()
        process.wait()
    hidden.rmdir()
    stage.request("POST", "/-/", {}, expected=400)
    with pytest.raises(ExpectedError, match="expected 200, got 404"):
        stage.request("GET", "/nothing", expected=200)
    assert left(stage.state) == []


def test_without_the_guestbook_it_reports_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("archelon.demo.scenarios._BUNDLES", tmp_path)
    scenario = choose()
    assert scenario.service == "hello"
    assert "orchestrators/guestbook are not installed" in scenario.missing[0]
    assert (scenario.bundles[0] / "manifest.yaml").is_file()
