"""Pods for tests, as restricted as those of the platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def pod(
    name: str,
    image: str,
    *,
    command: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    volumes: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
    ready: Mapping[str, Any] | None = None,
    restart: str = "Never",
) -> dict[str, Any]:
    """A restricted pod: not root, no privilege escalation, writable only where volumes are mounted.

    Args:
        volumes: mount path and source by name.
        ready: readiness probe.
    """
    mounts = volumes or {}
    container: dict[str, Any] = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": each, "value": value} for each, value in (environment or {}).items()],
        "volumeMounts": [{"name": each, "mountPath": path} for each, (path, _) in mounts.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if command:
        container["command"] = list(command)
    if ready is not None:
        container["readinessProbe"] = {**ready, "periodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 120,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": each, **source} for each, (_, source) in mounts.items()],
        },
    }
