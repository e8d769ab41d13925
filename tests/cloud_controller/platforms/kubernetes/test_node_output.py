"""Output of nodes on a cluster whose API server is a table of responses."""

from __future__ import annotations

import io
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest
import urllib3

from cloud_controller.platforms.interface import DeployError, UnknownNodeError
from cloud_controller.platforms.kubernetes.annotations import COMPONENT, NODE, NODE_KEY, POD
from cloud_controller.platforms.kubernetes.api import Api
from cloud_controller.platforms.kubernetes.cluster import Cluster
from cloud_controller.platforms.kubernetes.nodes import PodNodes
from cloud_controller.platforms.kubernetes.policy import TemplatePolicy
from cloud_controller.platforms.kubernetes.stacks import KubernetesStacks

from ...infrastructure.descriptions import order

STAMP = b"2026-01-01T00:00:01.000000001Z "


class Server:
    """A cluster with these pods and Services, whose pods all have the same log."""

    def __init__(self, *, pods: list[dict[str, Any]], services: list[dict[str, Any]], log: bytes = b"") -> None:
        self.pods = pods
        self.services = services
        self.log = log
        self.status = 200
        self.asked: list[str] = []

    def __call__(
        self, _method: str, url: str, _headers: Mapping[str, str], _body: bytes | None, _timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse:
        path, _, query = url.partition("?")
        self.asked.append(url)
        status, answer = 200, b"{}"
        if path.endswith("/log"):
            stamped = "timestamps" in urllib.parse.parse_qs(query)
            status, answer = self.status, STAMP + self.log if stamped else self.log
            if status != 200:
                answer = json.dumps({"message": "pods/log is forbidden"}).encode()
        elif path == "/api/v1":
            verbs = ["get", "list", "create", "patch", "delete"]
            names = (("pods", "Pod"), ("services", "Service"), ("secrets", "Secret"))
            kinds = [{"name": name, "kind": kind, "namespaced": True, "verbs": verbs} for name, kind in names]
            answer = json.dumps({"resources": kinds}).encode()
        elif path.endswith(("/pods", "/services")):
            answer = json.dumps({"items": self.pods if path.endswith("/pods") else self.services}).encode()
        return urllib3.HTTPResponse(io.BytesIO(answer), status=status, preload_content=False)


def pod(name: str = "node-s1-web-0") -> dict[str, Any]:
    labels = {NODE: "web", NODE_KEY: "web.0", COMPONENT: POD}
    metadata = {"name": name, "namespace": "ns", "labels": labels, "creationTimestamp": name}
    return {"metadata": metadata, "spec": {"containers": [{"name": "main"}]}, "status": {}}


def test_the_output_of_a_pod_is_read_by_the_nodes_key() -> None:
    server = Server(pods=[pod()], services=[pod()], log=b"here\n")
    nodes = PodNodes(Cluster(Api(server), "here"))
    found = nodes.read_log("s1", "web.0")
    assert found is not None
    assert (found.data, found.next) == (b"here\n", 1767225601_000000001)
    assert "container=node" in server.asked[-1]
    assert nodes.read_tail("s1", "web.0", 3) == b"re\n"
    assert "tailLines=20" in server.asked[-1]
    server.status = 403
    assert nodes.read_tail("s1", "web.0", 100) == b"(it cannot be read: pods/log is forbidden)"
    # While it is recreated it has no pod.
    server.pods = []
    gap = nodes.read_log("s1", "web.0", 5)
    assert gap is not None
    assert (gap.data, gap.next) == (b"", 5)
    assert nodes.read_tail("s1", "web.0", 100) == b""
    server.services = []
    assert nodes.read_log("s1", "web.0") is None


def test_the_output_of_a_templates_pod_is_read_by_its_number() -> None:
    server = Server(pods=[pod("web-b"), pod("web-a")], services=[], log=b"here\n")
    stacks = KubernetesStacks(Cluster(Api(server), "here"), TemplatePolicy.of(None))
    assert stacks.read_log(order("", id="s1"), "web.1").data == b"here\n"
    assert "/pods/web-b/log?container=main" in server.asked[-1]
    with pytest.raises(UnknownNodeError, match=r"expected one of web\.0, web\.1"):
        stacks.read_log(order("", id="s1"), "web.2")
    assert issubclass(UnknownNodeError, DeployError)
