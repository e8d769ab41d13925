"""Infrastructure descriptions as pods; the store's also runs as processes elsewhere."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

import bundles
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import DeployError, StackOrder
from sdk.templates import Document
from tests.orchestrators.bundles import STORE
from tests.waiting import until

from .bed import Bed
from .test_stacks_on_a_cluster import Driver

CHAIN = """
infra_name: chain
nodes:
  - {name: db, type: db}
  - {name: web, type: web, scaling: {min: 1, max: 2}}
dependencies:
  - connection: [web, db]
outputs:
  url: {value: "http://${nodes.web.address}:${nodes.web.port}/"}
'node_def:db':
  - resource: {type: process, command: [sleep, '1000']}
  - resource:
      type: pod
      command: [python3, -c, "import time, signal, sys; signal.signal(15, lambda *_: sys.exit()); time.sleep(9e5)"]
      grace: 1
'node_def:web':
  - resource:
      type: pod
      command: [python3, -I, -u, site/web.py]
      environment: {DB: "${nodes.db.address}", ME: "${self.address}", PORT: "${self.port}"}
      ports: [http]
      grace: 1
      files:
        site/web.py: |
          import http.server, os, signal, sys
          signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
          class Handler(http.server.BaseHTTPRequestHandler):
              def do_GET(self):
                  body = f"{os.environ['DB']} {os.environ['ME']}".encode()
                  self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
                  self.wfile.write(body)
              def log_message(self, *arguments): pass
          http.server.HTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
    health_check: {urls: ["http://${self.address}:${self.port}/"]}
"""


@pytest.fixture
def driver(bed: Bed) -> Iterator[Driver]:
    made = Driver(bed, CHAIN, bed.platform.declarative)
    made.order = replace(made.order, parameters={})
    yield made
    bed.leave(made.gone)


def test_a_chain_is_created_healed_scaled_suspended_and_removed(bed: Bed, driver: Driver) -> None:
    done = driver.settle()
    assert driver.states == ["CREATE_IN_PROGRESS", "CREATE_COMPLETE"]

    def shown() -> str:
        with urllib.request.urlopen(done.outputs["url"], timeout=60) as answer:
            return str(answer.read().decode())

    addresses = shown().split()
    assert len(set(addresses)) == 2
    assert f"http://{addresses[1]}:8080/" == done.outputs["url"]
    [web] = bed.pods(stack=driver.order.id, node="web")
    bed.kill(web)
    until(lambda: driver.advance().state != "CREATE_COMPLETE")
    assert driver.settle().state == "UPDATE_COMPLETE"
    # It keeps its address, so its dependents need no update.
    assert shown().split() == addresses
    driver.settle(counts=driver.stacks.scale(driver.order, "web", by=1))
    assert len(bed.pods(stack=driver.order.id, node="web")) == 2
    targets = bed.platform.targets.targets(driver.order.labels.instance, driver.order.id, "web", "")
    assert [each.port for each in targets] == [8080, 8080]
    assert driver.settle(presence="suspended").state == "SUSPEND_COMPLETE"
    assert bed.pods(stack=driver.order.id) == []
    assert driver.settle(presence="present").state == "RESUME_COMPLETE"


def test_the_stores_description_runs_as_a_pod(bed: Bed) -> None:
    document = Document.read(bundles.Bundle.load(STORE), "templates/local.yaml", "infrastructure")
    store = Driver(bed, document.text, bed.platform.declarative)
    values = {"store.password": "s3cret", "store.limit": 10}
    store.order = replace(store.order, parameters=values, files=document.files)
    done = store.settle()
    with urllib.request.urlopen(done.outputs["store.endpoint"] + "/healthz", timeout=60) as answer:
        assert answer.read() == b"ok\n"
    for pod in bed.pods(stack=store.order.id):
        assert "s3cret" not in str(pod)
    bed.leave(store.gone)


@pytest.mark.parametrize(
    ("resource", "problem"),
    [
        ("{type: pod, ports: {http: 0}}", "a pod's port is a number"),
        ("{type: pod, user: 0}", "'user' must be a whole number, 1 or more"),
        ("{type: pod, hostNetwork: true}", "has no 'hostNetwork'"),
        ("{type: pod, limits: {gpu: 1}}", "has no 'gpu'"),
    ],
)
def test_an_invalid_pod_resource_is_refused(bed: Bed, resource: str, problem: str) -> None:
    text = f"infra_name: a\nnodes: [{{name: a, type: a}}]\n'node_def:a': [{{resource: {resource}}}]\n"
    order = StackOrder(str(uuid.uuid4()), "a", Labels("i", "t", "s", 1), text)
    with pytest.raises(DeployError, match=problem):
        bed.platform.declarative.validate(order)
