"""The README's commands work: its service starts, its requests succeed, its targets exist."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.code_blocks import code_blocks
from tests.conftest import missing

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """Port of the README's first service."""
    (program,) = [each for each in code_blocks(README, "python") if "occi_service.Application()" in each]
    (tmp_path / "readme.py").write_text(program)
    with socket.create_server(("127.0.0.1", 0)) as listening, (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "gunicorn", "readme:application", "--no-control-socket"]
        command += ["--bind", f"fd://{listening.fileno()}", "--chdir", str(tmp_path), "--pythonpath", str(ROOT)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, pass_fds=[listening.fileno()])
        try:
            yield listening.getsockname()[1]
        finally:
            process.terminate()
            process.wait(60)


def test_the_first_service_responds_to_the_first_requests(served: int) -> None:
    if shutil.which("curl") is None:
        missing("curl", package="curl")
    (script,) = [each for each in code_blocks(README) if "curl" in each]
    commands = [each for each in re.split(r"\n(?=curl )", script.strip()) if each]
    assert len(commands) == 3
    answers = []
    for command in commands:
        text = command.replace("localhost:8000", f"127.0.0.1:{served}").replace("curl ", "curl -sS --max-time 60 ", 1)
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        answers.append(done.stdout)
    categories, created, listed = answers
    assert categories.startswith("HTTP/1.1 200")
    assert 'compute; scheme="http://schemas.ogf.org/occi/infrastructure#"' in categories
    assert created.startswith("HTTP/1.1 201")
    assert re.search(rf"^location: http://127.0.0.1:{served}/compute/", created, re.MULTILINE | re.IGNORECASE)
    assert '"occi.compute.state":"inactive"' in listed


def test_every_named_target_exists() -> None:
    if shutil.which("make") is None:
        missing("make", package="make")
    named = set(re.findall(r"^make ([\w-]+)", "\n".join(code_blocks(README) + code_blocks(CONTRIBUTING)), re.MULTILINE))
    assert {"demo", "test", "test-all", "lint", "bench", "crash", "fresh"} <= named
    for target in sorted(named):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, (target, done.stderr)


def test_every_linked_page_exists() -> None:
    for name, text in (("README.md", README), ("CONTRIBUTING.md", CONTRIBUTING)):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{name} links to {target}"
