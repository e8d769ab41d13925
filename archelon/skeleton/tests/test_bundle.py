"""What `archelon test` runs: that the bundle is right, and that the page says what it is told to."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import bundles

BUNDLE = Path(__file__).parents[1]


def test_nothing_is_wrong_with_the_bundle() -> None:
    assert bundles.validate(BUNDLE) == []


def test_the_page_says_the_greeting() -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, sys.argv[1]); import server, http.server; "
        "s = http.server.HTTPServer(('127.0.0.1', 0), server.Page); print(s.server_port, flush=True); "
        "s.handle_request()",
        str(BUNDLE),
    ]
    environment = {**os.environ, "GREETING": "Good morning"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        port = int(page.stdout.readline())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert answer.read() == b"Good morning"
    assert page.returncode == 0
