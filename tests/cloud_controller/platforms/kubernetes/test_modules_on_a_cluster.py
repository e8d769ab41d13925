"""Deploy and disposal over HTTP, with a worker and a real cluster: an orchestrator's lifecycle, reported by the watch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bundles
from archelon_api import deploy, disposal
from tests.cloud_controller.deploy.test_module import put_application, put_bundle
from tests.cloud_controller.disposal.test_module import put_disposal
from tests.cloud_controller.platforms.test_applications import reached
from tests.cloud_controller.system import System, new_instance
from tests.orchestrators.bundles import HELLO
from tests.waiting import until

from .bed import Bed, region

#: No service manager listens there: the orchestrator starts, and cannot renew its token.
ENVIRONMENT = {
    "ARCHELON_SERVICE_MANAGER": "http://127.0.0.1:9/hello/x",
    "ARCHELON_DESIGN": "http://127.0.0.1:9/design",
    "ARCHELON_TOKEN": "s3cret",
    "ARCHELON_KEYS": json.dumps({"keys": []}),
}


@pytest.fixture
def system(bed: Bed, tmp_path: Path, sqlite_url: str) -> Iterator[tuple[System, Bed]]:
    with region(bed.kubeconfig, bed.image) as inside:
        made = System(tmp_path / "system", sqlite_url, platforms={"kube": inside.platform})
        yield made, inside
        inside.platform.watcher.close()
        made.clear()


def test_an_orchestrator_from_its_bundle_to_its_audit(system: tuple[System, Bed]) -> None:
    made, bed = system
    instance = new_instance()
    path = "/deploy" + deploy.application_path(instance)
    archive, digest = bundles.Bundle.load(HELLO).pack()
    put_bundle(made, archive)
    environment = {**ENVIRONMENT, "ARCHELON_INSTANCE": instance}
    ordered = put_application(made, instance, **{deploy.BUNDLE_DIGEST: digest, deploy.APPLICATION_ENV: environment})
    assert ordered.status_code == 201, ordered.text

    def active() -> bool:
        return bool(made.attributes(path)[deploy.APP_STATE] == "active")

    with made.worker():
        begun = time.monotonic()
        until(active)
        print(f"active after {time.monotonic() - begun:.1f} s")
        url = made.attributes(path)[deploy.APP_URL]
        # The node's routing is updated a moment after the cluster's state.
        until(lambda: reached(url + "readyz"))
        log = until(lambda: made.call("GET", path + "/logs", query="since=0").content)
        assert b"s3cret" not in log
        [pod] = bed.pods(instance=instance)
        bed.kill(pod)
        until(lambda: not active())
        until(active)
        assert [each["metadata"]["uid"] for each in bed.pods(instance=instance)] != [pod["metadata"]["uid"]]
        for action, state in ((deploy.STOP, "inactive"), (deploy.START, "active")):
            assert made.call("POST", path, action=action, attributes={}).status_code == 200
            until(lambda state=state: made.attributes(path)[deploy.APP_STATE] == state)
        assert put_disposal(made, instance).status_code == 201
        place = "/disposal" + disposal.disposal_path(instance)
        until(lambda: made.attributes(place)[disposal.DISPOSAL_STATE] == "done", seconds=180)
        audit = {line["object"] for line in made.attributes(place)[disposal.DISPOSAL_AUDIT]}
        assert f"Deployment {bed.namespace}/app-{instance}" in audit
        assert {f"{kind} {bed.namespace}/app-{instance}" for kind in ("Service", "NetworkPolicy")} <= audit
    assert list(bed.platform.cluster.everything(instance=instance)) == []
