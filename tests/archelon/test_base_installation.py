"""Everything can be imported without an extra, and a region that needs one says so."""

from __future__ import annotations

import subprocess
import sys

from .harness import ROOT


def test_nothing_imports_what_only_an_extra_installs() -> None:
    command = [sys.executable, "-m", "tests.archelon.base_installation"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heat, kubernetes = done.stdout.splitlines()
    assert "install archelon[heat]" in heat
    assert "install archelon[kubernetes]" in kubernetes
