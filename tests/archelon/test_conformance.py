"""`archelon conformance`: results and exit statuses for conforming and failing orchestrators."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from archelon.errors import Status
from sdk.testing import conformance
from tests.ports import free_port
from tests.waiting import until

from .harness import ROOT, CliResult, archelon

_SILENT = (
    "import http.server, os; "
    "http.server.HTTPServer((os.environ['HOST'], int(os.environ['PORT'])), http.server.BaseHTTPRequestHandler).serve_forever()"
)


def test_a_bundles_orchestrator_passes() -> None:
    result = archelon("conformance", "-o", "json", "--prompt", 30, ROOT / "orchestrators" / "hello")
    assert result.status == Status.DONE, result.out
    assert len(result.json) > 10
    assert {each["outcome"] for each in result.json} == {"ok"}


def test_one_failed_check_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    # The checks are tested with the SDK; a silent server would take half a minute of timeouts.
    findings = [conformance.Finding("talks"), conformance.Finding("listens", "it does not")]
    monkeypatch.setattr(conformance, "check", lambda *_arguments, **_options: findings)
    result = archelon("conformance", "-o", "json", sys.executable, "-c", _SILENT)
    assert result.status == Status.FAILED
    assert result.json == [
        {"check": "talks", "outcome": "ok", "problem": ""},
        {"check": "listens", "outcome": "failed", "problem": "it does not"},
    ]


def test_a_command_that_exits_at_once_is_reported() -> None:
    result = archelon("conformance", "false")
    assert result.status == Status.FAILED
    assert "exited with 1 before it listened" in result.err


def test_an_orchestrator_at_a_url_passes(tmp_path: Path) -> None:
    port = free_port()
    result: list[CliResult] = []
    file = tmp_path / "environment"
    options = ("-o", "json", "--environment-file", file, "--start-timeout", 60, "--prompt", 30)
    tester = threading.Thread(
        target=lambda: result.append(archelon("conformance", *options, f"http://127.0.0.1:{port}/")), daemon=True
    )
    tester.start()
    until(file.exists, "the environment file exists")
    assert file.stat().st_mode & 0o077 == 0
    given = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert set(given) == {f"ARCHELON_{name}" for name in ("INSTANCE", "SERVICE_MANAGER", "DESIGN", "TOKEN", "KEYS")}
    command = [sys.executable, "-m", "sdk.serve", str(ROOT / "orchestrators" / "hello")]
    environment = {**os.environ, **given, "PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": str(port)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        tester.join(timeout=120)
        assert result, "the command has not finished"
        assert result[0].status == Status.DONE, result[0].out
        assert {each["outcome"] for each in result[0].json} == {"ok"}
        # The command cannot restart it.
        assert not [each for each in result[0].json if "restart" in each["check"]]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_an_orchestrator_that_is_never_started_is_reported() -> None:
    result = archelon("conformance", "--start-timeout", "0.1", "http://127.0.0.1:1/")
    assert result.status == Status.FAILED
    assert "ARCHELON_TOKEN=start-" in result.err
    assert "no orchestrator renewed its tokens" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("http://127.0.0.1:1", "--start-timeout", "1"), "options come before it"),
        (("--listen", "nowhere", "false"), "give ADDRESS:PORT"),
        (("--environment-file", "x", "false"), "is for a URL"),
    ],
)
def test_invalid_arguments_are_refused(arguments: tuple[str, ...], message: str) -> None:
    result = archelon("conformance", *arguments)
    assert result.status == Status.USAGE
    assert message in result.err
