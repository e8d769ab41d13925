"""The commands in docs/service-manager.md work as described, in order, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import missing

from ..harness import ROOT, ServiceManager

PAGE = ROOT / "docs" / "service-manager.md"


def test_every_command_works(manager: ServiceManager, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        missing("curl", package="curl")
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 10
    tokens = manager.realm.tokens
    environment = {
        # `python` must be that of the tests: make does not activate its environment.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": str(ROOT),
        "SM": manager.url,
        "PROVIDER": tokens["provider"],
        "ALICE": tokens["alice"],
        "OPERATOR": tokens["operator"],
    }
    # Each block prints its number first, so that a failure names it.
    script = "\n".join([f"echo '--- block {number}'\n{block}" for number, block in enumerate(blocks, start=1)])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    result = done.stdout
    assert "hello.visitors=20" in result
    assert "greet" in result
    assert '"draining": true' in result
    assert tokens["alice"] not in result
