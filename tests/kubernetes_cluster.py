"""A Kubernetes cluster for one test run: that of KUBECONFIG, or the test bed, started for this run and stopped after it.

The test bed's programs are built from Debian's source package if they are not cached, which takes minutes: see
deploy/testbeds/kubernetes/README.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from kubernetes_testbed.cluster import Cluster
from kubernetes_testbed.layout import Layout, TestBedError

from archelon import main
from archelon.images import builders
from tests.beds import coming_up

#: For the cluster of KUBECONFIG: this machine's address as its pods reach it, and the command that loads an image archive into
#: its nodes (`kind load image-archive`), to which the archive's path is appended.
_HOST: Final = "ARCHELON_TEST_KUBERNETES_HOST"
_LOAD: Final = "ARCHELON_TEST_KUBERNETES_LOAD"

#: Directories that a node's programs write to regardless of configuration; the test bed must not leave new ones.
_PLACES: Final = (
    "/etc/cni", "/opt/cni", "/opt/containerd", "/run/containerd", "/run/netns", "/usr/libexec/kubernetes",
    "/var/lib/cni", "/var/lib/containerd", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class KubernetesCluster:
    """A cluster's access, and how to load images into it.

    Args:
        kubeconfig: an administrator's configuration file.
        host: address of this machine as pods reach it; empty if unknown.
        load: loads the images of an archive into the nodes.
        restart_api: kills and restarts the API server; None for a cluster that must not be disturbed.
    """

    kubeconfig: Path
    host: str
    load: Callable[[Path], None]
    restart_api: Callable[[], None] | None = None


def given() -> KubernetesCluster | None:
    """Return the cluster of KUBECONFIG, if set."""
    path = os.environ.get("KUBECONFIG")
    if not path:
        return None
    command = shlex.split(os.environ.get(_LOAD, ""))

    def load(archive: Path) -> None:
        if not command:
            raise RuntimeError(f"{_LOAD} is not set; name the command that loads an image's archive into the cluster")
        subprocess.run([*command, str(archive)], check=True, timeout=300)

    return KubernetesCluster(Path(path), os.environ.get(_HOST, ""), load)


def obstacle() -> str | None:
    """Return why this machine cannot run the test bed; None if it can."""
    return Layout().obstacle()


def builder() -> builders.Builder | None:
    """Return the available image builder, if any."""
    try:
        return builders.find()
    except builders.BuilderError:
        return None


@contextlib.contextmanager
def builders_storage(directory: Path) -> Iterator[None]:
    """Keep images of buildah or podman in a separate directory, apart from the machine's."""
    storage, networks = directory / "storage.conf", directory / "containers.conf"
    roots = "".join(f'{name} = "{directory / name}"\n' for name in ("graphroot", "runroot"))
    storage.write_text(f'[storage]\ndriver = ""\n{roots}')
    networks.write_text(f'[network]\nnetwork_config_dir = "{directory / "networks"}"\n')
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CONTAINERS_STORAGE_CONF", str(storage))
        environment.setenv("CONTAINERS_CONF", str(networks))
        yield


@contextlib.contextmanager
def loaded_image(cluster: KubernetesCluster, content: str, directory: Path) -> Iterator[str]:
    """Build one of our own images from this machine's Python, load it into the cluster, and yield its name.

    The builder keeps it until the end, as a base for others.
    """
    image, archive = f"localhost/archelon-{content}:test", directory / f"{content}.tar"
    given = ["build", "--of", content, "--image", image, "--archive", str(archive)]
    assert main.main(given) == 0
    cluster.load(archive)
    archive.unlink()
    try:
        yield image
    finally:
        builders.find().remove(image)


@contextlib.contextmanager
def started() -> Iterator[KubernetesCluster]:
    """Start the test bed. One that is already running is used, and left running."""
    cluster = Cluster(Layout())
    ran = cluster.is_up

    def restart_api() -> None:
        cluster.kill("apiserver")
        with coming_up("kubernetes_cluster", TestBedError):
            cluster.up()

    absent = [place for place in map(Path, _PLACES) if not place.exists()]
    with coming_up("kubernetes_cluster", TestBedError, subprocess.CalledProcessError):
        if not ran:
            # Remove leftovers of a killed run.
            cluster.down()
        Cluster.build()
        cluster.up()
    try:
        layout = cluster.layout
        yield KubernetesCluster(layout.kubeconfig(), layout.host_address, cluster.load, restart_api)
    finally:
        if not ran:
            cluster.down()
            left = cluster.leftovers() + [f"directory {place}" for place in absent if place.exists()]
            if left:
                raise RuntimeError(f"the test bed left behind: {', '.join(left)}")
