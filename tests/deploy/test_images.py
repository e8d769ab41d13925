"""Images without a registry, in restricted pods: with a bundle mounted, built in, or in another language."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import bundles
from archelon.images import builders, root
from tests.archelon.harness import archelon
from tests.conftest import missing
from tests.kubernetes_cluster import KubernetesCluster

from .kubectl import Kubectl
from .pods import pod

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "orchestrators" / "hello"
#: Unreachable services: an orchestrator starts, and keeps trying to report that it is up.
_ORDER = {
    "ARCHELON_INSTANCE": "6f1f8cfe-2f4f-4f65-8a3c-6a4bd0a4c001",
    "ARCHELON_SERVICE_MANAGER": "http://127.0.0.1:9/hello/6f1f8cfe-2f4f-4f65-8a3c-6a4bd0a4c001",
    "ARCHELON_DESIGN": "http://127.0.0.1:9/design",
    "ARCHELON_TOKEN": "a start token",
    "ARCHELON_KEYS": json.dumps({"keys": []}),
}
_READY = {"httpGet": {"path": "/readyz", "port": 8080}}
_WRITABLE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "temporary": ("/tmp", {"emptyDir": {}}),
    "state": ("/var/lib/archelon", {"emptyDir": {}}),
}
#: Checks its restrictions; prints the last line only if all of them hold.
_LOCKED = """
import os, pathlib, ssl, sqlite3, zlib
import sdk.runtime.app, sdk.serve, bundles
assert (os.getuid(), os.getgid()) == (65532, 65532)
for place in ("/srv/x", "/usr/lib/x", "/etc/x", "/var/lib/archelon/x"):
    try:
        pathlib.Path(place).write_text("x")
    except OSError:
        continue
    print("could write", place)
status = pathlib.Path("/proc/self/status").read_text()
fields = dict(line.split(":", 1) for line in status.splitlines())
assert int(fields["CapEff"], 16) == 0 and int(fields["CapBnd"], 16) == 0, fields
assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2", fields
assert not pathlib.Path("/var/run/secrets/kubernetes.io").exists()
print("programs", sorted(each.name for each in pathlib.Path("/usr/bin").iterdir()))
print("locked")
"""


def test_the_base_image_runs_restricted(orchestrator_image: str, kubectl: Kubectl) -> None:
    kubectl.apply(pod("locked", orchestrator_image, command=["python3", "-c", _LOCKED]))
    kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/locked", "--timeout=120s")
    result = kubectl("logs", "locked").splitlines()
    assert result[-1] == "locked"
    assert len(result) == 2, result
    assert "python3" in result[0]
    assert "sh" not in result[0].replace("'", " ").split()


def test_a_mounted_bundle_is_served_and_the_pod_stops_on_sigterm(orchestrator_image: str, kubectl: Kubectl) -> None:
    packed = bundles.Bundle.load(HELLO).pack()
    mounted = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "bundle"},
        "binaryData": {"bundle.tar.gz": base64.b64encode(packed.archive).decode()},
    }
    environment = {
        **_ORDER,
        "ARCHELON_BUNDLE_ARCHIVE": "/etc/archelon/bundle/bundle.tar.gz",
        "ARCHELON_BUNDLE_DIGEST": packed.digest,
    }
    volumes = {**_WRITABLE, "bundle": ("/etc/archelon/bundle", {"configMap": {"name": "bundle"}})}
    kubectl.apply(mounted, pod("hello", orchestrator_image, environment=environment, volumes=volumes, ready=_READY))
    kubectl("wait", "--for=condition=Ready", "pod/hello", "--timeout=120s")
    began = time.monotonic()
    kubectl("delete", "pod", "hello", "--timeout=100s")
    # The grace period is two minutes, which a process 1 without a signal handler would use up.
    assert time.monotonic() - began < 60


def test_an_image_of_a_bundle_is_served(
    kubernetes_cluster: KubernetesCluster, orchestrator_image: str, kubectl: Kubectl, tmp_path: Path
) -> None:
    image, archive = "localhost/hello:test", tmp_path / "hello.tar"
    result = archelon(
        "build", HELLO, "--image", image, "--base", orchestrator_image, "--archive", archive, "-o", "json"
    )
    assert result.status == 0, result.err
    assert result.json["image"] == image
    kubernetes_cluster.load(archive)
    kubectl.apply(pod("hello", image, environment=_ORDER, volumes=_WRITABLE, ready=_READY))
    kubectl("wait", "--for=condition=Ready", "pod/hello", "--timeout=120s")
    builders.find().remove(image)


def test_an_orchestrator_in_another_language_is_an_image(
    kubernetes_cluster: KubernetesCluster, image_storage: None, kubectl: Kubectl, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        missing("Node", package="nodejs")
    assert node is not None
    base = _image_of_program(Path(node), tmp_path)
    image, archive = "localhost/plain-node:test", tmp_path / "plain-node.tar"
    result = archelon(
        "build", ROOT / "orchestrators" / "plain-node", "--image", image, "--base", base, "--archive", archive
    )
    assert result.status == 0, result.err
    kubernetes_cluster.load(archive)
    environment = {**_ORDER, "HOST": "0.0.0.0", "PORT": "8080"}
    kubectl.apply(pod("plain", image, environment=environment, ready=_READY))
    kubectl("wait", "--for=condition=Ready", "pod/plain", "--timeout=120s")
    for each in (image, base):
        builders.find().remove(each)


def _image_of_program(program: Path, directory: Path) -> str:
    """Build an image with only one of this machine's programs, in place of a registry's base image."""
    context, image = directory / "context", f"localhost/{program.name}:test"
    (context / "root" / "usr" / "bin").mkdir(parents=True)
    for name in ("lib", "lib64"):
        (context / "root" / "usr" / name).mkdir()
        (context / "root" / name).symlink_to(f"usr/{name}")
    place = context / "root/usr/bin" / program.name
    shutil.copy2(program.resolve(), place)
    root._add_shared_objects(context / "root", [place])
    # Debian's Node reads some of its own modules from here; other builds include them.
    modules = Path("/usr/share/nodejs")
    if modules.is_dir():
        shutil.copytree(modules, context / "root" / modules.relative_to("/"), symlinks=True)
    lines = ["FROM scratch", "COPY root/ /", "ENV PATH=/usr/bin"]
    (context / "Containerfile").write_text("\n".join(lines) + "\n")
    builders.find().build(context, image)
    return image


def test_a_missing_builder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = archelon("build", HELLO, "--image", "localhost/hello:test")
    assert result.status == 1
    assert "no builder found (buildah, podman, docker)" in result.err


def test_a_builders_output_is_reported(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'no space left' >&2\nexit 7\n")
    program.chmod(0o755)
    with pytest.raises(builders.BuilderError, match="docker build ended with 7: no space left"):
        builders.find("docker", path=str(tmp_path)).build(tmp_path, "localhost/x:1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--of", "nothing"], "--of with one of orchestrator, services"),
        ([], "--of with one of orchestrator, services"),
        ([str(HELLO), "--of", "services"], "not both"),
        (["--of", "services", "--base", "python:3"], "deploy/containers/services/Containerfile"),
    ],
)
def test_missing_and_conflicting_arguments_are_refused(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "buildah").write_text("#!/bin/sh\n")
    (tmp_path / "buildah").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = archelon("build", "--image", "localhost/x:1", *arguments)
    assert result.status == 2
    assert words in result.err
