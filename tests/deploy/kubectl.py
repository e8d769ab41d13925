"""kubectl for tests: what an operator would type, with limits on how long it may take."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

#: What a machine without `program` lacks.
NEEDED: Final = "a kubectl that knows kustomize's components (1.24 or newer)"


class Kubectl:
    """kubectl against one cluster.

    Args:
        namespace: where commands look that name none; without it, objects say where they belong.
    """

    def __init__(self, kubeconfig: Path, namespace: str = "") -> None:
        self._command = [
            program() or "kubectl",
            f"--kubeconfig={kubeconfig}",
            # Beside it, as for ~/.kube/config, and not always in the home.
            f"--cache-dir={kubeconfig.parent / 'cache'}",
            *([f"--namespace={namespace}"] if namespace else []),
        ]
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 180.0) -> str:
        """What it prints. Fails the test with what it says where it fails."""
        ended = subprocess.run(
            [*self._command, *arguments], input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stderr or ended.stdout}"
        return ended.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects."""
        self("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, *what: str) -> Any:
        """An object, or a list's items."""
        found = json.loads(self("get", *what, "-o", "json"))
        return found.get("items", found)

    def find(self, kind: str, name: str) -> Any:
        """An object; None where there is none."""
        found = self("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found else None

    def ended(self, pod: str) -> str:
        """`Succeeded` or `Failed`; empty as long as the pod has not ended."""
        phase = str(self.get("pod", pod)["status"].get("phase"))
        return phase if phase in ("Succeeded", "Failed") else ""


@functools.cache
def program() -> str | None:
    """A kubectl that today's overlays can be written for: this machine's, else the one in the tests' own packages; or None."""
    for place in (None, str(Path(sys.executable).parent)):
        found = shutil.which("kubectl", path=place)
        if found is not None and _knows_components(found):
            return found
    return None


def _knows_components(kubectl: str) -> bool:
    """Whether its kustomize knows components: its version is told from 4 on."""
    asked = [kubectl, "version", "--client", "-o", "json"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return told.returncode == 0 and bool(json.loads(told.stdout).get("kustomizeVersion"))
