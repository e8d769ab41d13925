"""Run by `archelon test`: the bundle is valid, and the page contains the greeting."""

import http.server
import runpy
import threading
import urllib.request
from pathlib import Path

import pytest

import bundles

BUNDLE = Path(__file__).parents[1]


def test_the_bundle_is_valid() -> None:
    assert bundles.validate(BUNDLE) == []


def test_the_page_contains_the_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREETING", "Good morning")
    page = runpy.run_path(str(BUNDLE / "server.py"))["Page"]
    with http.server.HTTPServer(("127.0.0.1", 0), page) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=10) as answer:
            assert answer.read() == b"Good morning"
