"""`archelon conformance`: it passes what is right and fails what is not, by status too."""

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
    # What the checks find is sdk's; waiting for all that a silent server does not do takes half a minute.
    findings = [conformance.Finding("talks"), conformance.Finding("listens", "it does not")]
    monkeypatch.setattr(conformance, "check", lambda *_arguments, **_options: findings)
    result = archelon("conformance", "-o", "json", sys.executable, "-c", _SILENT)
    assert result.status == Status.FAILED
    assert result.json == [
        {"check": "talks", "outcome": "ok", "problem": ""},
        {"check": "listens", "outcome": "failed", "problem": "it does not"},
    ]


def test_what_ends_at_once_is_told_so() -> None:
    result = archelon("conformance", "false")
    assert result.status == Status.FAILED
    assert "ended with 1 before it listened" in result.err


def test_one_that_somebody_else_starts_passes(tmp_path: Path) -> None:
    port = free_port()
    result: list[CliResult] = []
    file = tmp_path / "environment"
    options = ("-o", "json", "--environment-file", file, "--patience", 60, "--prompt", 30)
    tester = threading.Thread(
        target=lambda: result.append(archelon("conformance", *options, f"http://127.0.0.1:{port}/")), daemon=True
    )
    tester.start()
    until(file.exists, "the environment is said")
    assert file.stat().st_mode & 0o077 == 0
    given = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert set(given) == {f"ARCHELON_{name}" for name in ("INSTANCE", "SERVICE_MANAGER", "DESIGN", "TOKEN", "KEYS")}
    command = [sys.executable, "-m", "sdk.serve", str(ROOT / "orchestrators" / "hello")]
    environment = {**os.environ, **given, "PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": str(port)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        tester.join(timeout=120)
        assert result, "it has not ended"
        assert result[0].status == Status.DONE, result[0].out
        assert {each["outcome"] for each in result[0].json} == {"ok"}
        # It cannot be killed and started from here.
        assert not [each for each in result[0].json if "restart" in each["check"]]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_one_that_nobody_starts_is_told_so() -> None:
    result = archelon("conformance", "--patience", "0.1", "http://127.0.0.1:1/")
    assert result.status == Status.FAILED
    assert "ARCHELON_TOKEN=start-" in result.err
    assert "no orchestrator asked for its tokens" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://127.0.0.1:1", "--patience", "1"), "options come before it"),
        (("--listen", "nowhere", "false"), "give ADDRESS:PORT"),
        (("--environment-file", "x", "false"), "is for a URL"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: tuple[str, ...], words: str) -> None:
    result = archelon("conformance", *arguments)
    assert result.status == Status.USAGE
    assert words in result.err
