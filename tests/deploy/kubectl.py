"""kubectl for tests, with timeouts."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

#: Requirement that is missing if `program` returns None.
NEEDED: Final = "a kubectl that knows kustomize's components (1.24 or newer)"


class Kubectl:
    """kubectl against one cluster.

    Args:
        namespace: default namespace of commands; without it, objects name their own.
    """

    def __init__(self, kubeconfig: Path, namespace: str = "") -> None:
        self._command = [
            program() or "kubectl",
            f"--kubeconfig={kubeconfig}",
            # Beside the kubeconfig, as for ~/.kube/config.
            f"--cache-dir={kubeconfig.parent / 'cache'}",
            *([f"--namespace={namespace}"] if namespace else []),
        ]
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 180.0) -> str:
        """Run kubectl and return its output; fails the test with the error output if it fails."""
        ended = subprocess.run(
            [*self._command, *arguments], input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stderr or ended.stdout}"
        return ended.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects."""
        self("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, *what: str) -> Any:
        """Return an object, or the items of a list."""
        found = json.loads(self("get", *what, "-o", "json"))
        return found.get("items", found)

    def find(self, kind: str, name: str) -> Any:
        """Return an object, or None if it does not exist."""
        found = self("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found else None

    def ended(self, pod: str) -> str:
        """Return `Succeeded` or `Failed`, or an empty string while the pod runs."""
        phase = str(self.get("pod", pod)["status"].get("phase"))
        return phase if phase in ("Succeeded", "Failed") else ""


@functools.cache
def program() -> str | None:
    """Path of a kubectl that supports the overlays: this machine's, or that of the tests' own packages; None without one."""
    for place in (None, str(Path(sys.executable).parent)):
        found = shutil.which("kubectl", path=place)
        if found is not None and _knows_components(found):
            return found
    return None


def _knows_components(kubectl: str) -> bool:
    """Whether its kustomize supports components: from 4 on, kubectl reports kustomize's version."""
    command = [kubectl, "version", "--client", "-o", "json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return result.returncode == 0 and bool(json.loads(result.stdout).get("kustomizeVersion"))
