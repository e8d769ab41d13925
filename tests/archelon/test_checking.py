"""`archelon conformance`: it passes what is right and fails what is not, by status too."""

from __future__ import annotations

import sys

import pytest

from archelon.failures import Status
from sdk import conformance

from .harness import ROOT, archelon

_SILENT = (
    "import http.server, os; "
    "http.server.HTTPServer((os.environ['HOST'], int(os.environ['PORT'])), http.server.BaseHTTPRequestHandler).serve_forever()"
)


def test_a_bundles_orchestrator_passes() -> None:
    said = archelon("conformance", "-o", "json", ROOT / "orchestrators" / "hello")
    assert said.status == Status.DONE, said.out
    assert len(said.json) > 10
    assert {each["outcome"] for each in said.json} == {"ok"}


def test_one_failed_check_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the checks find is sdk's; waiting for all that a silent server does not do takes half a minute.
    findings = [conformance.Finding("talks"), conformance.Finding("listens", "it does not")]
    monkeypatch.setattr(conformance, "check", lambda *_arguments, **_options: findings)
    said = archelon("conformance", "-o", "json", sys.executable, "-c", _SILENT)
    assert said.status == Status.FAILED
    assert said.json == [
        {"check": "talks", "outcome": "ok", "problem": ""},
        {"check": "listens", "outcome": "failed", "problem": "it does not"},
    ]


def test_what_ends_at_once_is_told_so() -> None:
    said = archelon("conformance", "false")
    assert said.status == Status.FAILED
    assert "ended with 1 before it listened" in said.err


def test_a_url_is_refused_with_the_reason() -> None:
    said = archelon("conformance", "http://127.0.0.1:1/")
    assert said.status == Status.USAGE
    assert "give the command that starts it" in said.err
