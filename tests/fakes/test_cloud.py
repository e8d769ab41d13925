"""The fake cloud's contract: accepted and refused requests, and that its journal distinguishes one start from two.

A bench per instance receives its orchestrator's reports; the tests send the service manager's requests.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric import ed25519

from archelon_api import deploy, design, disposal, names, tokens
from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from archelon_core.auth import SigningKey
from occi_service.model import type_id
from sdk.testing.http_fakes import Bench, Server
from tests.fakes.cloud import FakeCloudProcess
from tests.fakes.faults import Fault
from tests.ports import free_port

ARCHIVE = b"an archive"
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()
KEY = SigningKey.of(ed25519.Ed25519PrivateKey.generate(), issuer="sm-1")


class ServiceManagers:
    """The service managers of any number of instances at one address, as a WSGI application."""

    def __init__(self) -> None:
        self.benches: dict[str, Bench] = {}
        # One of the tests restarts it at the same port.
        self.listen = ("127.0.0.1", free_port())
        self.start()

    def start(self) -> None:
        self.server = Server(self.listen, self)
        self.server.start()

    def __call__(self, environ: Any, response: Any) -> Iterable[bytes]:
        return self.benches[environ["PATH_INFO"].split("/")[2]](environ, response)


@pytest.fixture
def sm() -> Iterator[ServiceManagers]:
    started = ServiceManagers()
    yield started
    started.server.close()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[FakeCloudProcess]:
    with FakeCloudProcess(tmp_path, [KEY.public], outputs={"web.endpoint": "http://x/{instance}"}) as started:
        yield started


class Caller:
    """Sends the service manager's requests for one instance; its bench receives the reports."""

    def __init__(self, cloud: FakeCloudProcess, sm: ServiceManagers) -> None:
        self.cloud = cloud
        self.bench = Bench(url=sm.server.url, key=KEY, seconds=90)
        self.instance = self.bench.instance
        sm.benches[self.instance] = self.bench
        self._http = urllib3.PoolManager(retries=False, timeout=60)

    def request(
        self,
        method: str,
        url: str,
        document: Any = None,
        *,
        audience: str = tokens.AUDIENCE_CLOUD_CONTROLLER,
        tenant: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        fields = {
            "Authorization": f"Bearer {self.bench.token(audience=audience, tenant=tenant)}",
            "Content-Type": "application/occi+json",
            "Accept": "application/occi+json",
            **(headers or {}),
        }
        body = document if isinstance(document, bytes) else json.dumps(document).encode() if document else None
        response = self._http.request(method, self.cloud.url + url, body=body, headers=fields)
        return response.status, json.loads(response.data) if response.data[:1] == b"{" else response.data

    def put_bundle(self, archive: bytes = ARCHIVE) -> int:
        path = deploy.bundle_path(hashlib.sha256(archive).hexdigest())
        headers = {"Content-Type": deploy.BUNDLE_MEDIA_TYPE}
        return self.request("PUT", f"/deploy{path}", archive, headers=headers)[0]

    def put_application(self, generation: int = 1, *, digest: str = DIGEST, **more: Any) -> tuple[int, Any]:
        document = {
            "kind": type_id(deploy.APPLICATION),
            "mixins": [type_id(deploy.ORCHESTRATOR)],
            "attributes": {
                deploy.APP_NAME: "hello",
                names.INSTANCE: self.instance,
                names.SERVICE: self.bench.service,
                names.GENERATION: generation,
                deploy.BUNDLE_DIGEST: digest,
                deploy.APPLICATION_ENV: {**self.bench.environment, wire.ENV_DESIGN: f"{self.cloud.url}/design"},
            },
        }
        return self.request("PUT", f"/deploy{deploy.application_path(self.instance)}", document, **more)

    def orchestrator(self, method: str, document: Any = None, *, action: str = "", **more: Any) -> tuple[int, Any]:
        more.setdefault("audience", tokens.audience_of_orchestrator(self.instance))
        query = f"?action={action}" if action else ""
        return self.request(method, f"/orchestrators/{self.instance}{wire.PATH}{query}", document, **more)

    def activate(self, generation: int = 1, *, counter: int = 0, **more: Any) -> int:
        attributes = self.bench.activation(generation, private={"counter": counter})
        return self.orchestrator("PUT", {"kind": type_id(wire.ORCHESTRATOR), "attributes": attributes}, **more)[0]

    def phase(self, phase: str, generation: int = 1, **more: Any) -> int:
        document = {"action": wire.SCHEME + phase, "attributes": self.bench.order(generation)}
        return self.orchestrator("POST", document, action=phase, **more)[0]

    def up(self) -> None:
        """Start and activate an orchestrator."""
        self.put_bundle()
        assert self.put_application()[0] == 201
        self.cloud.wait_for("tokens taken", self.instance)
        assert self.activate() == 201

    def reports(self, phase: str) -> list[dict[str, Any]]:
        return [each for each in self.bench.reports if each.get(manager.PHASE) == phase]

    def reported(self, phase: str, times: int = 1) -> dict[str, Any]:
        assert self.bench.watch(lambda: len(self.reports(phase)) >= times), self.bench.reports[-5:]
        return self.reports(phase)[-1]

    def dispose(self, generation: int = 1) -> tuple[int, Any]:
        document = {
            "kind": type_id(disposal.DISPOSAL),
            "attributes": {names.INSTANCE: self.instance, names.GENERATION: generation},
        }
        return self.request("PUT", f"/disposal{disposal.disposal_path(self.instance)}", document)


@pytest.fixture
def caller(cloud: FakeCloudProcess, sm: ServiceManagers) -> Caller:
    return Caller(cloud, sm)


def test_an_order_from_the_bundle_to_the_end(caller: Caller) -> None:
    cloud, instance = caller.cloud, caller.instance
    path = f"/deploy{deploy.bundle_path(DIGEST)}"
    assert caller.request("HEAD", path)[0] == 404
    assert [caller.put_bundle(), caller.put_bundle(), caller.request("HEAD", path)[0]] == [201, 200, 200]
    assert caller.request("GET", path)[1] == ARCHIVE
    assert caller.request("GET", "/deploy/bundle/")[1]["resources"][0]["id"].endswith(DIGEST)
    subject = {design.SUBJECT_TOKEN_HEADER: "the tenant's"}
    delegation = {"kind": type_id(design.DELEGATION)}
    where = f"/design{design.delegation_path(instance)}"
    assert caller.request("PUT", where, delegation)[0] == 400
    assert caller.request("PUT", where, delegation, headers=subject)[0] == 201
    assert caller.request("PUT", where, delegation)[1]["attributes"][design.DELEGATION_STATE] == "active"

    caller.up()
    assert caller.put_application()[0] == 200
    _, application = caller.request("GET", f"/deploy{deploy.application_path(instance)}")
    assert application["attributes"][deploy.APP_STATE] == "active"
    assert application["attributes"][deploy.APP_URL] == f"{cloud.url}/orchestrators/{instance}"
    assert caller.activate() == 200
    for phase in ("deploy", "provision"):
        assert caller.phase(phase) == 200
        report = caller.reported(phase)
        assert report[manager.PHASE_STATE] == "done"
        assert report[manager.OUTPUTS] == {"web.endpoint": f"http://x/{instance}"}
    stack = report[manager.REPORTED_LINKS][0]["target"].removeprefix(cloud.url)
    assert caller.request("GET", stack)[1]["attributes"][deploy.STACK_STATE] == "CREATE_COMPLETE"
    _, shown = caller.orchestrator("GET")
    assert shown["attributes"][wire.STACK_STATE] == "CREATE_COMPLETE"

    assert caller.orchestrator("DELETE")[0] == 200
    caller.reported("destroy")
    assert caller.dispose()[0] == 201
    cloud.wait_for("disposal done", instance)
    status, ended = caller.dispose()
    assert (status, ended["attributes"][disposal.DISPOSAL_STATE]) == (200, "done")
    assert [each["object"] for each in ended["attributes"][disposal.DISPOSAL_AUDIT]] == [
        deploy.application_path(instance),
        design.delegation_path(instance),
    ]
    assert cloud.left_over() == []
    assert caller.put_application()[0] == 409

    entries = cloud.entries()
    assert entries.starts(instance) == 1
    assert entries.phases(instance) == {(1, "deploy"): 1, (1, "provision"): 1, (1, "destroy"): 1}
    assert entries.violations == []
    # At least the delays; on a loaded machine any more.
    assert 0.04 <= entries.seconds(instance) < 60
    assert {each["token"]["audience"] for each in entries.requests(instance=instance) if each["token"]} == {
        tokens.AUDIENCE_CLOUD_CONTROLLER,
        tokens.audience_of_orchestrator(instance),
    }
    text = json.dumps(entries.entries)
    assert "the tenant's" not in text
    assert not re.search(r"eyJ[\w-]+\.", text), "a signed token is in the journal"
    assert not [each for each in (caller.bench.start_token, *caller.bench.known_tokens) if each in text]


def test_the_catalogue_lists_the_modules(caller: Caller) -> None:
    _, found = caller.request("GET", "/design/service/")
    endpoints = {
        each["attributes"][design.SERVICE_TYPE]: each["attributes"][design.ENDPOINT] for each in found["resources"]
    }
    url = caller.cloud.url
    assert endpoints[deploy.SCHEME] == f"{url}/deploy"
    assert endpoints[disposal.SCHEME] == f"{url}/disposal"


def test_older_and_different_orders_are_conflicts(caller: Caller) -> None:
    caller.up()
    other = b"another archive"
    caller.put_bundle(other)
    rolled = hashlib.sha256(other).hexdigest()
    assert caller.put_application(1, digest=rolled)[0] == 409
    assert caller.put_application(2, digest=rolled)[0] == 200
    caller.cloud.wait_for("application started", caller.instance, process=2)
    assert caller.put_application(1, digest=rolled)[0] == 409
    assert caller.put_application(3, digest="0" * 64)[0] == 409
    assert caller.activate(2, counter=0) == 201
    assert caller.activate(1) == 409
    assert caller.phase("deploy", 1) == 409
    assert caller.put_application(3, tenant="tenant-b")[0] == 409
    assert caller.cloud.entries().starts(caller.instance) == 2


def test_a_phase_in_progress_is_not_begun_again_and_no_other_beside_it(caller: Caller) -> None:
    caller.cloud.fault("hang", module="orchestrator", action="deploy")
    caller.up()
    assert caller.phase("deploy") == 200
    assert caller.phase("provision") == 409
    assert caller.phase("deploy") == 200
    entries = caller.cloud.entries()
    assert entries.times("phase begun", caller.instance) == 1
    assert entries.times("phase repeated", caller.instance, state="running") == 1
    assert entries.times("stack made", caller.instance) == 1


def test_a_repeated_phase_is_carried_out_once_and_reported_again(caller: Caller) -> None:
    caller.cloud.configure(phase_delays={"deploy": 0.2})
    caller.up()
    assert caller.phase("deploy") == 200
    # During the phase or, on a loaded machine, after it.
    assert caller.phase("deploy") == 200
    caller.reported("deploy")
    assert caller.phase("deploy") == 200
    caller.reported("deploy", times=2)
    entries = caller.cloud.entries()
    assert entries.phases(caller.instance) == {(1, "deploy"): 1}
    assert entries.times("phase repeated", caller.instance) == 2
    assert entries.times("stack made", caller.instance) == 1


def test_tokens_for_others_are_refused(caller: Caller) -> None:
    caller.up()
    assert caller.activate(audience=tokens.AUDIENCE_CLOUD_CONTROLLER) == 401
    assert caller.activate(audience=tokens.audience_of_orchestrator(str(uuid.uuid4()))) == 401
    assert caller.phase("deploy", tenant="tenant-b") == 403
    assert caller.put_application(audience=tokens.AUDIENCE_SERVICE_MANAGER)[0] == 401
    path = f"/deploy{deploy.application_path(caller.instance)}"
    assert caller.request("GET", path, tenant="tenant-b")[0] == 404


def test_reports_are_retried_until_they_are_acknowledged(caller: Caller) -> None:
    caller.bench.renewal_refusals = [500]
    caller.up()
    caller.bench.refusals = [503, 401, 500]
    caller.phase("deploy")
    caller.reported("deploy")
    attempts = [each["status"] for each in caller.cloud.entries().calls("report", caller.instance)]
    assert attempts[:3] == [503, 401, 500]
    caller.bench.refusals = [409]
    caller.phase("provision")
    # Otherwise the next report could be the one that is refused.
    caller.cloud.wait_for_call(name="report", instance=caller.instance, phase="provision", status=409)
    caller.phase("update", 2)
    caller.reported("update")
    assert caller.reports("provision") == []
    renewals = [each["status"] for each in caller.cloud.entries().calls("renew", caller.instance)]
    assert renewals == [500, 200, 200]
    assert caller.cloud.entries().violations == []


def test_a_restarted_service_manager_gets_the_reports(caller: Caller, sm: ServiceManagers) -> None:
    caller.up()
    sm.server.close()
    caller.phase("deploy")
    caller.cloud.wait_for_call(name="report", attempt=2, status=None)
    assert caller.cloud.state()["applications"][caller.instance]["orchestrator"]["pending_reports"] == ["1/deploy"]
    sm.start()
    assert caller.reported("deploy")[manager.PHASE_STATE] == "done"


def test_a_crashed_orchestrator_only_knows_its_environment(caller: Caller) -> None:
    caller.up()
    caller.phase("deploy")
    caller.reported("deploy")
    caller.cloud.fault("crash", module="orchestrator", action="provision")
    assert caller.phase("provision") == 200
    caller.cloud.wait_for("tokens taken", caller.instance, process=2)
    assert caller.phase("provision") == 404
    assert caller.activate(counter=1) == 201
    assert caller.phase("provision") == 200
    assert caller.reported("provision")[manager.PRIVATE] == {"counter": 2}
    assert caller.cloud.entries().violations == []
    caller.cloud.crash(caller.instance)
    caller.cloud.wait_for("tokens taken", caller.instance, process=3)
    assert caller.activate(counter=1) == 201
    assert ["private state was lost" in each for each in caller.cloud.entries().violations] == [True]


def test_faults_around_requests(caller: Caller) -> None:
    cloud = caller.cloud
    caller.put_bundle()
    cloud.fault("status", module="deploy", method="PUT", path="^/application/", status=503, retry_after=2, count=2)
    assert [caller.put_application()[0] for _ in range(2)] == [503, 503]
    cloud.fault("drop_before", module="deploy", method="PUT")
    with pytest.raises(urllib3.exceptions.ProtocolError):
        caller.put_application()
    assert cloud.left_over() == []
    cloud.fault("drop_after", module="deploy", method="PUT")
    with pytest.raises(urllib3.exceptions.ProtocolError):
        caller.put_application()
    assert caller.put_application()[0] == 200
    assert cloud.entries().times("application created", caller.instance) == 1
    assert [
        (each["status"], each["answered"]) for each in cloud.entries().requests(method="PUT", instance=caller.instance)
    ] == [
        (503, True),
        (503, True),
        (None, False),
        (201, False),
        (200, True),
    ]
    cloud.fault("delay", module="deploy", method="GET", seconds=60)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        path = f"/deploy{deploy.application_path(caller.instance)}"
        waiting = pool.submit(caller.request, "GET", path)
        cloud.wait_for("request held", caller.instance)
        assert not waiting.done()
        cloud.clear()
        assert waiting.result(60)[0] == 200


def test_faults_of_phases_disposals_and_applications(caller: Caller, sm: ServiceManagers) -> None:
    cloud = caller.cloud
    caller.up()
    cloud.fault("fail", module="orchestrator", action="deploy", message="no quota")
    caller.phase("deploy")
    report = caller.reported("deploy")
    assert (report[manager.PHASE_STATE], report[manager.PHASE_MESSAGE]) == ("failed", "no quota")
    cloud.fault("hang", module="orchestrator", action="deploy")
    caller.phase("deploy")
    assert cloud.state()["applications"][caller.instance]["orchestrator"]["phase"] == "1/deploy"
    assert caller.phase("deploy", 2) == 200
    cloud.wait_for("phase cancelled", caller.instance, generation=1)
    caller.reported("deploy", times=2)
    cloud.fault("fail", module="disposal", message="a volume is in use")
    caller.dispose(2)
    cloud.wait_for("disposal failed", caller.instance)
    assert caller.dispose(1)[0] == 409
    assert caller.dispose(2)[0] == 200
    cloud.wait_for("disposal done", caller.instance)

    other = Caller(cloud, sm)
    cloud.fault("error", module="deploy", method="PUT", message="no such image")
    other.put_application()
    _, shown = other.request("GET", f"/deploy{deploy.application_path(other.instance)}")
    assert shown["attributes"][deploy.APP_STATE] == "error"
    assert shown["attributes"][deploy.APP_STATE_MESSAGE] == "no such image"
    with pytest.raises(urllib3.exceptions.ProtocolError):
        other.activate()
    third = Caller(cloud, sm)
    cloud.fault("never_start", module="deploy", method="PUT")
    third.put_application()
    assert cloud.state()["applications"][third.instance]["orchestrator"] is None
    assert cloud.entries().starts(third.instance) == 0


def test_an_event_is_accepted_once(caller: Caller) -> None:
    caller.up()
    attributes = {wire.EVENT_ID: "e1", wire.EVENT_TYPE: "alarm"}
    document = {"action": type_id(wire.NOTIFY), "attributes": attributes}
    assert [caller.orchestrator("POST", document, action="notify")[0] for _ in range(2)] == [200, 200]
    entries = caller.cloud.entries()
    assert (entries.times("event taken"), entries.times("event repeated")) == (1, 1)


def test_an_invalid_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds"):
        Fault(kind="delay")
    with pytest.raises(ValueError, match="no module"):
        Fault(kind="hang", module="runtime")


def test_it_does_not_outlive_the_test_run(cloud: FakeCloudProcess) -> None:
    process = cloud._process
    assert process is not None
    assert process.stdin is not None
    # The kernel closes it when the test run is killed.
    process.stdin.close()
    assert process.wait(60) == -9


def test_it_keeps_up_with_many_orders(cloud: FakeCloudProcess, sm: ServiceManagers) -> None:
    callers = [Caller(cloud, sm) for _ in range(100)]

    def order(caller: Caller) -> None:
        caller.up()
        for phase in ("deploy", "provision"):
            assert caller.phase(phase) == 200
            cloud_report = caller.reported(phase)
            assert cloud_report[manager.PHASE_STATE] == "done"

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(order, callers))
    entries = cloud.entries()
    assert entries.violations == []
    assert {entries.starts(each.instance) for each in callers} == {1}
    assert len(cloud.state()["stacks"]) == 100
