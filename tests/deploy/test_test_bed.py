"""The Kubernetes test bed: pods, Services by address and name, and connections to this machine."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest
import urllib3
from kubernetes_testbed.cluster import Cluster
from kubernetes_testbed.layout import Layout, TestBedError
from kubernetes_testbed.namespace import CgroupTree, Namespace

from tests.conftest import missing
from tests.kubernetes_cluster import KubernetesCluster
from tests.waiting import until

from .kubectl import Kubectl
from .pods import pod

_SERVER = ["python3", "-m", "http.server", "8080", "--directory", "/srv"]
_CLIENT = """
import socket, sys, urllib.request
for url in sys.argv[2:]:
    print(urllib.request.urlopen(url, timeout=10).status)
host, _, port = sys.argv[1].rpartition(":")
with socket.create_connection((host, int(port)), timeout=10) as made:
    made.sendall(b"from a pod")
try:
    socket.getaddrinfo("nobody.nowhere.svc", 80)
except socket.gaierror:
    print("unknown")
"""


def test_pods_and_this_machine_reach_services_and_pods_reach_this_machine(
    kubernetes_cluster: KubernetesCluster, orchestrator_image: str, kubectl: Kubectl
) -> None:
    if not kubernetes_cluster.host:
        missing("this machine's address as pods reach it", command="ARCHELON_TEST_KUBERNETES_HOST=… make test-all")
    ready = {"tcpSocket": {"port": 8080}}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    kubectl.apply(pod("web", orchestrator_image, command=_SERVER, ready=ready), service)
    kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=120s")
    address = kubectl.get("service", "web")["spec"]["clusterIP"]
    until(lambda: _status(f"http://{address}/") == 200, "the Service responds here")
    acknowledged: list[bytes] = []
    with closing(socket.create_server((kubernetes_cluster.host, 0))) as here:
        here.settimeout(120)
        waits = threading.Thread(target=lambda: acknowledged.append(_receive(here)), daemon=True)
        waits.start()
        address_of_test = f"{kubernetes_cluster.host}:{here.getsockname()[1]}"
        urls = ["http://web/", f"http://web.{kubectl.namespace}.svc/", f"http://{address}/"]
        kubectl.apply(pod("asks", orchestrator_image, command=["python3", "-c", _CLIENT, address_of_test, *urls]))
        ended = until(lambda: kubectl.ended("asks"), "the pod has finished")
        waits.join(timeout=60)
    assert (ended, kubectl("logs", "asks").split()) == ("Succeeded", ["200", "200", "200", "unknown"])
    assert acknowledged == [b"from a pod"]


@pytest.fixture
def possible() -> None:
    """Skip the test if no separate test bed is possible."""
    obstacle = Layout().obstacle()
    if obstacle is not None:
        missing(f"a Kubernetes test bed, which needs {obstacle},")


@pytest.mark.kubernetes
@pytest.mark.parametrize("program", ["etcd", "kube-apiserver", "kubelet"])
def test_a_failed_up_leaves_nothing(possible: None, tmp_path: Path, program: str) -> None:
    Cluster.build()
    programs = tmp_path / "bin"
    programs.mkdir()
    for each in Layout().programs.iterdir():
        (programs / each.name).symlink_to(each)
    (programs / program).unlink(missing_ok=True)
    (programs / program).write_text("#!/bin/sh\necho it is broken\nexit 3\n")
    (programs / program).chmod(0o755)
    cluster = Cluster(Layout(name="archelon-failing", block="10.234", state=tmp_path / "state", programs=programs))
    with pytest.raises(TestBedError, match=r"it exited; .*it is broken"):
        cluster.up()
    assert cluster.leftovers() == []


def _receive(here: socket.socket) -> bytes:
    with here.accept()[0] as made:
        return made.recv(100)


def _status(url: str) -> int:
    try:
        return int(urllib3.request("GET", url, timeout=5.0, retries=False).status)
    except urllib3.exceptions.HTTPError:
        return 0


@pytest.mark.kubernetes
def test_namespaces_without_their_link_are_recreated(possible: None, tmp_path: Path) -> None:
    """A killed `up` may leave incomplete namespaces."""
    layout = Layout(name="archelon-halfway", block="10.235", state=tmp_path / "state")
    layout.state.mkdir()
    cgroup = CgroupTree(layout.name)
    cgroup.make()
    namespace = Namespace(layout, cgroup)
    try:
        namespace.make()
        [first] = cgroup.processes()
        namespace.make()
        assert cgroup.processes() == {first}
        (layout.state / "namespaces.complete").unlink()
        namespace.make()
        [second] = cgroup.processes()
        assert second != first
        assert (Path("/sys/class/net") / layout.link).exists()
    finally:
        namespace.remove()
        cgroup.remove()
    assert Cluster(layout).leftovers() == [f"directory {layout.state}"]
