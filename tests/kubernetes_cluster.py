"""A Kubernetes cluster for one test run: the one that KUBECONFIG names, or the test bed, brought up for this run and taken down.

The test bed's programs are built from Debian's source package where they are not in the cache yet, which takes minutes: see
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

#: Of a cluster that is given: this machine's address as its pods reach it, and the command that loads an image's archive into
#: its nodes (`kind load image-archive`), to which the archive is appended.
_HOST: Final = "ARCHELON_TEST_KUBERNETES_HOST"
_LOAD: Final = "ARCHELON_TEST_KUBERNETES_LOAD"

#: Where the programs of a node write, whatever they are configured to: what is not there before is not there after.
_PLACES: Final = (
    "/etc/cni", "/opt/cni", "/opt/containerd", "/run/containerd", "/run/netns", "/usr/libexec/kubernetes",
    "/var/lib/cni", "/var/lib/containerd", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class KubernetesCluster:
    """Where it is, and how it is given images.

    Args:
        kubeconfig: file with which an administrator reaches it.
        host: address of this machine as pods reach it; empty where nobody said.
        load: gives its nodes the images in an archive.
        restart_api: kills the API server and starts it again; None where it is not ours to kill.
    """

    kubeconfig: Path
    host: str
    load: Callable[[Path], None]
    restart_api: Callable[[], None] | None = None


def given() -> KubernetesCluster | None:
    """The cluster of KUBECONFIG."""
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
    """Why this machine cannot have the test bed; None: it can."""
    return Layout().obstacle()


def builder() -> builders.Builder | None:
    """What makes images here; None without any."""
    try:
        return builders.find()
    except builders.BuilderError:
        return None


@contextlib.contextmanager
def builders_storage(directory: Path) -> Iterator[None]:
    """Images that buildah or podman makes meanwhile lie in a directory of their own, and not among the machine's."""
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
    """Build one of our own images out of this machine's Python, and give it to the cluster; its name.

    The builder has it until the end, so that others can be built on it.
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
    """The test bed. One that runs already is used, and stays."""
    cluster = Cluster(Layout())
    ran = cluster.is_up

    def restart_api() -> None:
        cluster.kill("apiserver")
        with coming_up("kubernetes_cluster", TestBedError):
            cluster.up()

    absent = [place for place in map(Path, _PLACES) if not place.exists()]
    with coming_up("kubernetes_cluster", TestBedError, subprocess.CalledProcessError):
        if not ran:
            # What a run that was killed left.
            cluster.down()
        Cluster.build()
        cluster.up()
    try:
        layout = cluster.layout
        yield KubernetesCluster(layout.kubeconfig(), layout.host_address, cluster.load, restart_api)
    finally:
        if not ran:
            cluster.down()
            left = cluster.remains() + [f"directory {place}" for place in absent if place.exists()]
            if left:
                raise RuntimeError(f"the test bed left behind: {', '.join(left)}")
