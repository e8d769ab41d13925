"""docs/start.md, executed: its installation in a new virtual environment, and every command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.code_blocks import code_blocks
from tests.conftest import missing

from .harness import ROOT, Dev, first_port

#: Seconds; includes the installation, and allows for a loaded machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PAGE = (ROOT / "docs" / "start.md").read_text()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of programs of a virtual environment with Archelon without extras."""
    place = tmp_path_factory.mktemp("plain") / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    installed = re.findall(r"`pip install (.+?)`", PAGE)
    assert installed == [".", "pytest"]
    pip = [place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    for what in installed:
        done = subprocess.run(
            [*pip, "--constraint", "constraints.txt", what], cwd=ROOT, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr
    return place / "bin"


def _environment(path: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("ARCHELON_", "PYTHON", "VIRTUAL"))
    }
    # Nothing of the environment that runs the tests.
    others = [each for each in kept.get("PATH", os.defpath).split(":") if each != str(Path(sys.executable).parent)]
    return {**kept, "PATH": ":".join([*filter(None, [path]), *others])}


@pytest.fixture(scope="module", params=["pip install", "make demo"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a terminal after either installation."""
    if request.param == "pip install":
        return _environment(str(request.getfixturevalue("plain")))
    # The page's command, in a checkout whose environment is that of the tests: make installs the same.
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    shown = subprocess.run(
        ["bash", "-euc", f"{code_blocks(PAGE)[0]}\nprintenv PATH"],
        cwd=checkout, env=_environment(""), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return _environment(shown.stdout.strip())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Path]:
    """The page's directory, in which `archelon dev` runs as on the page, but on the test's ports."""
    work = tmp_path_factory.mktemp("work")
    commands = code_blocks(PAGE)[1].strip()
    assert commands.endswith("\narchelon dev")
    command = f"{commands.removesuffix('archelon dev')}exec archelon dev --port {first_port()}"
    running = Dev(work / "try" / ".archelon", output=work / "dev.out")
    try:
        running.launch(["bash", "-c", command], cwd=work, environment=environment)
        yield work / "try"
        running.interrupt()
    finally:
        running.end()


def test_no_extra_is_installed(plain: Path) -> None:
    names = "kubernetes", "heatclient", "asyncssh"
    ask = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    done = subprocess.run([plain / "python", "-P", "-c", ask, *names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_of_the_page_works(directory: Path, environment: dict[str, str]) -> None:
    address = json.loads((directory / ".archelon" / "dev.json").read_text())
    port = next(str(value) for name, value in address["ports"].items() if name == "service_manager")
    if shutil.which("curl") is None:
        missing("curl", package="curl")
    identifier = ""
    for block in code_blocks(PAGE)[2:]:
        # Replace the page's id with that of the ordered instance.
        text = block.replace("127.0.0.1:8888", f"127.0.0.1:{port}").replace("3f2a", identifier[:8] or "3f2a")
        text = text.replace("curl ", "curl -sS --fail --max-time 60 ")
        done = subprocess.run(
            ["bash", "-euc", text], cwd=directory, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        found = re.search(r"/hello/([0-9a-f-]{36})", done.stdout)
        identifier = found[1] if found else identifier


def test_a_region_reports_its_missing_extra(plain: Path, tmp_path: Path) -> None:
    ask = (
        "import pathlib, sys\n"
        "from cloud_controller.platforms.interface import DeployError\n"
        "from cloud_controller.app.dependencies import open_platforms\n"
        "try: open_platforms(pathlib.Path(sys.argv[1]), {'west': (sys.argv[2], {'auth_url': 'https://k/v3'})})\n"
        "except DeployError as problem: print(problem)"
    )
    for platform in ("heat", "kubernetes"):
        done = subprocess.run(
            [plain / "python", "-P", "-c", ask, tmp_path, platform],
            env=_environment(str(plain)), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert f"install archelon[{platform}]" in done.stdout, done.stdout
