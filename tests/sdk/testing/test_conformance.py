"""Conformance: the SDK's orchestrator and the one in Node pass, and violations are found."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.testing import conformance
from sdk.testing.http_fakes import Bench
from tests.ports import free_port
from tests.skips import to_run

from ..processes import ROOT

NODE = [shutil.which("node") or "node", str(ROOT / "orchestrators" / "plain-node" / "orchestrator.mjs")]
needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason=to_run("Node is missing", "apt-get install nodejs && make test")
)


def findings(
    command: list[str], log: Path, *, seconds: float = 60.0, prompt: float = 60.0
) -> list[conformance.Finding]:
    """The findings, on a machine that may be busy: only one test requires prompt responses.

    Args:
        seconds: timeout of every wait; a test of a missing message takes as long.
    """
    with (
        log.open("wb") as output,
        Bench(seconds=seconds) as bench,
        conformance.started(command, bench, seconds=60, output=output.fileno(), port=free_port()) as (url, restart),
    ):
        return conformance.check(url, bench, restart=restart, prompt=prompt)


def failed(found: list[conformance.Finding]) -> list[str]:
    return [str(each) for each in found if not each.passed]


def test_the_sdk_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "sdk.serve", str(ROOT / "orchestrators" / "hello")]
    found = findings(command, tmp_path / "log")
    assert failed(found) == [], (tmp_path / "log").read_text()[-3000:]
    assert len(found) == 20


@needs_node
def test_an_orchestrator_in_another_language_conforms(tmp_path: Path) -> None:
    found = findings(NODE, tmp_path / "log")
    assert failed(found) == [], (tmp_path / "log").read_text()[-3000:]


@needs_node
def test_a_slow_response_is_reported(tmp_path: Path) -> None:
    first = failed(findings(NODE, tmp_path / "log", prompt=0.0))[0]
    assert re.match(
        r"FAIL  responds to deploy at once, and reports it done: the response to deploy took \d+\.\d s", first
    )


@needs_node
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("if (claims.aud !== ", "if (false && claims.aud !== "), "refuses callers without a token"),
        (("if (order && claims.tenant !== ", "if (false && claims.tenant !== "), "refuses tokens of another tenant"),
        (("return created ? 201 : 200", "return 201"), "is activated by PUT"),
        (("if (run && run.state !== 'failed') {", "if (false) {"), "on a repeated deploy"),
        (("if (generation < order.generation) {", "if (false) {"), "refuses an order of an older generation"),
        (("else if (status < 500 && status !== 429) return;", "else return;"), "retries a report"),
        (("await cloud('DELETE', url);", "return null;"), "leaves no stack behind"),
        (("if (!EVENTS.includes(given('event.type')))", "if (false)"), "refuses an event of an unknown type"),
        (
            ("attributes: { [`${PREFIX}instance`]", "attributes: { [`${PREFIX}tokens`]: tokens, [`${PREFIX}instance`]"),
            "shows",
        ),
    ],
)
def test_violations_are_found(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    text = Path(NODE[1]).read_text()
    assert change[0] in text
    program = tmp_path / "orchestrator.mjs"
    program.write_text(text.replace(*change))
    # A short timeout, since the report never comes.
    seconds = 5.0 if "retries a report" in expected else 60.0
    first = failed(findings([NODE[0], str(program)], tmp_path / "log", seconds=seconds))[0]
    assert first.startswith(f"FAIL  {expected}"), first


def test_a_command_that_ends_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    with (
        Bench() as bench,
        pytest.raises(RuntimeError, match="it exited with 3"),
        conformance.started(command, bench),
    ):
        pass


def test_usage_and_errors_of_the_command_line(run: Callable[[list[str]], subprocess.CompletedProcess[str]]) -> None:
    for wrong in ([], ["http://127.0.0.1:1", "more"], ["--help"]):
        assert "usage: python -m sdk.testing.conformance COMMAND" in run(wrong).stderr
    missing = run(["nothing-of-this-name"])
    assert (missing.returncode, "nothing-of-this-name: " in missing.stderr) == (1, True)
    early = run([sys.executable, "-c", "raise SystemExit(3)"])
    assert "it exited with 3 before it listened" in early.stderr


@pytest.fixture
def run() -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    def call(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sdk.testing.conformance", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    return call
