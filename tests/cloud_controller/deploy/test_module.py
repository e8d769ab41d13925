"""Deploy: bundles, applications and stacks over HTTP, carried out by a worker with real processes."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import bundles
from archelon_api import deploy, names
from archelon_core import auth
from archelon_core.queue import Item, Token
from cloud_controller.app.worker import topics_of, worker_of
from cloud_controller.core.notifications import TOPIC, Notification
from cloud_controller.platforms.declarative_stacks import DeclarativeStacks
from cloud_controller.platforms.interface import (
    ApplicationOrder,
    ApplicationState,
    DelegationEndedError,
    DeployError,
    Log,
)
from occi_service import client

from ..infrastructure.descriptions import sleepers
from ..system import LISTENER, SERVICE, TENANT, System, labels, new_instance

BUNDLE = bundles.pack_files({"orchestrator.py": bundles.PackedFile(LISTENER.encode())})
PARAMETERS = "parameters:\n  word: {type: string, secret: true}\n"
OUTPUTS = "outputs:\n  word: {value: 'it is ${parameters.word}', secret: true}\n"
STACK_WITHOUT_WEB = sleepers({"db": []}, extra=", ports: [p]") + PARAMETERS
WORD = {deploy.STACK_PARAMETERS: {"word": "hello"}}
DIGEST = bundles.digest_of(BUNDLE)
STACK = sleepers({"db": [], "web": ["db"]}, extra=", ports: [p]", scaling={"web": (1, 3)})


@pytest.fixture
def system(tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", sqlite_url)
    yield made
    made.clear()


def put_bundle(system: System, archive: bytes = BUNDLE, *, token: str | None = None, digest: str = "") -> Any:
    headers = {
        "Authorization": f"Bearer {token or system.service_token()}",
        "Content-Type": "application/gzip",
    }
    path = "/deploy" + deploy.bundle_path(digest or hashlib.sha256(archive).hexdigest())
    return system.client.simulate_put(path, headers=headers, body=archive)


def put_application(
    system: System, instance: str, generation: int = 1, *, token: str | None = None, **changes: Any
) -> Any:
    attributes = {
        **labels(instance, generation),
        deploy.APP_NAME: "hello",
        deploy.BUNDLE_DIGEST: DIGEST,
        deploy.APPLICATION_ENV: {"WORD": "s3cret"},
        **changes,
    }
    attributes = {name: value for name, value in attributes.items() if value is not None}
    path = "/deploy" + deploy.application_path(instance)
    return system.call(
        "PUT", path, kind=deploy.APPLICATION, mixins=(deploy.ORCHESTRATOR,), attributes=attributes, token=token
    )


def put_stack(system: System, instance: str, generation: int = 1, *, token: str | None = None, **changes: Any) -> Any:
    attributes = {
        **labels(instance, generation),
        deploy.STACK_NAME: "main",
        names.REGION: "local",
        deploy.STACK_FORMAT: "infrastructure",
        deploy.STACK_TEMPLATE: STACK,
        **changes,
    }
    path = "/deploy" + deploy.stack_path(instance, "main", str(attributes[names.REGION]))
    return system.call("PUT", path, kind=deploy.STACK, attributes=attributes, token=token)


def stack_at(instance: str) -> str:
    return "/deploy" + deploy.stack_path(instance, "main", "local")


def state(system: System, instance: str) -> str:
    return str(system.attributes(stack_at(instance))[deploy.STACK_STATE])


def processes(system: System) -> dict[str, int | None]:
    return {
        each.name.process.rpartition(".")[0].partition(".")[2] + each.name.process[-2:]: each.pid
        for each in system.platform.launcher.find()
        if each.notes
    }


@pytest.mark.parametrize(
    ("problem", "retry"),
    [
        (DeployError("no such flavour"), False),
        (DeployError("another operation is in progress", permanent=False), None),
        (DelegationEndedError("the user is gone"), None),
    ],
)
def test_a_refusal_for_good_is_told_from_one_that_may_pass(
    system: System, monkeypatch: pytest.MonkeyPatch, problem: DeployError, retry: bool | None
) -> None:
    def advance(*_: Any) -> Any:
        raise problem

    instance = new_instance()
    with monkeypatch.context() as refusing:
        refusing.setattr(system.platform.formats["infrastructure"], "advance", advance)
        assert put_stack(system, instance).status_code == 201
        with system.worker():
            system.wait(lambda: state(system, instance) == "CREATE_FAILED")
            shown = system.attributes(stack_at(instance))
            assert (shown[deploy.STACK_REASON], shown.get(deploy.STACK_RETRY)) == (str(problem), retry)
    # The same order again is tried again.
    assert put_stack(system, instance, 2).status_code == 200
    assert deploy.STACK_RETRY not in system.attributes(stack_at(instance))


def test_a_parameter_with_a_nul_is_refused_at_the_order(system: System) -> None:
    parameters = {"word": "a\0b"}
    answer = put_stack(
        system, new_instance(), **{deploy.STACK_TEMPLATE: STACK_WITHOUT_WEB, deploy.STACK_PARAMETERS: parameters}
    )
    assert (answer.status_code, "'word' contains a NUL" in answer.text) == (400, True)


def test_a_bundle_is_stored_once_by_its_digest(system: System) -> None:
    assert put_bundle(system).status_code == 201
    assert put_bundle(system).status_code == 200
    path = "/deploy" + deploy.bundle_path(DIGEST)
    got = system.call("GET", path)
    assert (got.status_code, got.content) == (200, BUNDLE)
    assert system.call("HEAD", path).status_code == 200
    assert system.call("HEAD", "/deploy" + deploy.bundle_path("0" * 64)).status_code == 404
    listed = system.call("GET", "/deploy/bundle/").json["resources"]
    assert [each["attributes"]["org.archelon.bundle.size"] for each in listed] == [len(BUNDLE)]
    wrong = put_bundle(system, digest="0" * 64)
    assert (wrong.status_code, "digest" in wrong.text) == (400, True)
    assert put_bundle(system, b"no archive").status_code == 400
    assert put_bundle(system, token=system.instance_token(new_instance())).status_code == 403


def test_a_bundle_belongs_to_every_uploader(system: System) -> None:
    path = "/deploy" + deploy.bundle_path(DIGEST)
    absent = system.call("GET", path, token=system.peers_token())
    assert put_bundle(system).status_code == 201
    # This service manager serves many tenants; to another one the bundle does not exist.
    assert system.call("GET", path, token=system.service_token(tenant="t-2")).status_code == 200
    assert system.call("HEAD", path, token=system.peers_token()).status_code == 404
    stranger = system.call("GET", path, token=system.peers_token())
    assert (stranger.status_code, stranger.text) == (404, absent.text)
    assert system.call("GET", "/deploy/bundle/", token=system.peers_token()).json.get("resources", []) == []
    refused = put_application(system, new_instance(), token=system.peers_token())
    assert (refused.status_code, "PUT it at" in refused.text) == (409, True)
    assert [put_bundle(system, token=system.peers_token()).status_code for _ in range(2)] == [201, 200]
    assert system.call("GET", path, token=system.peers_token()).content == BUNDLE
    assert put_application(system, new_instance(), token=system.peers_token()).status_code == 201


def test_an_instance_may_not_choose_its_bundle(system: System) -> None:
    instance = new_instance()
    put_bundle(system)
    own = system.instance_token(instance)
    assert put_application(system, instance, token=own).status_code == 403
    other = bundles.pack_files({"orchestrator.py": bundles.PackedFile(b"print('other', flush=True)\n")})
    assert put_bundle(system, other).status_code == 201
    assert put_application(system, instance).status_code == 201
    for source in (
        {deploy.BUNDLE_DIGEST: bundles.digest_of(other)},
        {deploy.BUNDLE_DIGEST: None, deploy.BUNDLE_IMAGE: "x"},
    ):
        assert put_application(system, instance, 2, token=own, **source).status_code == 403
    assert system.call("GET", "/deploy" + deploy.bundle_path(bundles.digest_of(other)), token=own).status_code == 404


def test_an_instance_may_read_only_the_bundle_that_it_runs(system: System) -> None:
    instance = new_instance()
    put_bundle(system)
    path = "/deploy" + deploy.bundle_path(DIGEST)
    assert system.call("GET", path, token=system.instance_token(instance)).status_code == 404
    assert put_application(system, instance).status_code == 201
    assert system.call("GET", path, token=system.instance_token(instance)).status_code == 200


def test_the_lifecycle_of_an_application(system: System) -> None:
    instance = new_instance()
    path = "/deploy" + deploy.application_path(instance)
    refused = put_application(system, instance)
    assert (refused.status_code, "PUT it at" in refused.text) == (409, True)
    put_bundle(system)
    assert put_application(system, instance).status_code == 201
    with system.worker():
        shown = system.wait(lambda: (found := system.attributes(path))[deploy.APP_STATE] == "active" and found)
        assert shown[deploy.APP_URL].startswith("http://127.0.0.1:")
        assert deploy.APPLICATION_ENV not in shown
        [process] = system.platform.launcher.find()
        again = put_application(system, instance, 2, **{deploy.APPLICATION_ENV: {"WORD": "another"}})
        assert again.status_code == 200
        assert put_application(system, instance, 1).status_code == 409
        same = put_application(system, instance, 2, **{deploy.BUNDLE_DIGEST: None, deploy.BUNDLE_IMAGE: "x"})
        assert same.status_code in (400, 409)
        logs = system.wait(lambda: (got := system.call("GET", path + "/logs", query="since=0")).content and got)
        assert b"up s3cret" in logs.content
        visit = threading.Timer(0.3, lambda: urllib.request.urlopen(shown[deploy.APP_URL] + "visited").close())
        visit.start()
        following = system.call("GET", path + "/logs", query=f"since={logs.headers['X-Next']}&follow=1")
        visit.join()
        assert b"visited" in following.content
        other = system.instance_token(new_instance())
        assert system.call("GET", path + "/logs", token=other).status_code == 404
        assert system.call("GET", path + "/logs", token=system.service_token(tenant="t-2")).status_code == 404
        [same_process] = system.platform.launcher.find()
        assert same_process.pid == process.pid
        restarted = system.call("POST", path, action=deploy.RESTART)
        assert restarted.status_code == 200
        assert "s3cret" not in restarted.text
        system.wait(lambda: [each.pid for each in system.platform.launcher.find()] not in ([process.pid], [None]))
        system.wait(lambda: system.attributes(path)[deploy.APP_STATE] == "active")
        assert system.call("POST", path, action=deploy.STOP).status_code == 200
        system.wait(lambda: system.attributes(path)[deploy.APP_STATE] == "inactive")
        assert system.call("POST", path, action=deploy.START).status_code == 200
        system.wait(lambda: system.attributes(path)[deploy.APP_STATE] == "active")
        assert system.call("DELETE", path).status_code == 200
        system.wait(lambda: system.gone(path))
    assert system.platform.launcher.remains(instance) == ()
    with system.database.read() as connection:
        text = "".join(str(row) for row in connection.execute(sa.text("select document, secrets from occi_entities")))
    assert "s3cret" not in text


def test_a_newer_generation_with_another_bundle_restarts_with_it(system: System) -> None:
    instance = new_instance()
    path = "/deploy" + deploy.application_path(instance)
    put_bundle(system)
    other = bundles.pack_files(
        {"orchestrator.py": bundles.PackedFile(b"print('second', flush=True)\n" + LISTENER.encode())}
    )
    put_bundle(system, other)
    put_application(system, instance)
    with system.worker():
        system.wait(lambda: system.attributes(path)[deploy.APP_STATE] == "active")
        new = {deploy.BUNDLE_DIGEST: bundles.digest_of(other)}
        assert put_application(system, instance, 1, **new).status_code == 409
        assert put_application(system, instance, 2, **new).status_code == 200
        system.wait(lambda: b"second" in system.call("GET", path + "/logs", query="since=0").content)
        system.wait(lambda: system.attributes(path)[deploy.APP_STATE] == "active")
        assert len(system.platform.launcher.find()) == 1


def test_the_platform_is_told_of_a_process_of_its_own(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def start(order: ApplicationOrder) -> ApplicationState:
        told.append(order.hosting)
        return ApplicationState("active")

    monkeypatch.setattr(system.platform.applications, "start", start)
    put_bundle(system)
    for hosting in ("own", None):
        assert put_application(system, new_instance(), **{deploy.APPLICATION_HOSTING: hosting}).status_code == 201
    refused = put_application(system, new_instance(), **{deploy.APPLICATION_HOSTING: "shared"})
    assert refused.status_code == 400
    with system.worker():
        system.wait(lambda: sorted(told) == ["", "own"])


def test_hurtles_app_is_an_application(system: System) -> None:
    put_bundle(system)
    attributes = {deploy.APP_NAME: "hello", deploy.APP_IMAGE: DIGEST, deploy.APP_ENV: "WORD=one::OTHER=a=b"}
    made = system.call("POST", "/deploy/app/", kind=deploy.APP, attributes=attributes)
    assert made.status_code == 201, made.text
    path = "/deploy/app/" + made.headers["Location"].rpartition("/")[2]
    long = {**attributes, deploy.APP_NAME: "x" * 25}
    assert system.call("POST", "/deploy/app/", kind=deploy.APP, attributes=long).status_code == 400
    with system.worker():
        shown = system.wait(lambda: (found := system.attributes(path))[deploy.APP_STATE] == "active" and found)
        assert deploy.APP_ENV not in shown
        assert system.call("DELETE", path).status_code == 200
        system.wait(lambda: system.gone(path))


def test_the_lifecycle_of_a_stack(system: System) -> None:
    instance = new_instance()
    put_bundle(system)
    put_application(system, instance)
    own = system.instance_token(instance)
    path = stack_at(instance)
    secret = {deploy.STACK_TEMPLATE: STACK + PARAMETERS}
    secret[deploy.STACK_SECRET_PARAMETERS] = {"word": "s3cret"}
    made = put_stack(system, instance, token=own, **secret)
    assert made.status_code == 201, made.text
    assert state(system, instance) == "CREATE_IN_PROGRESS"
    with system.worker():
        system.wait(lambda: state(system, instance) == "CREATE_COMPLETE")
        before = processes(system)
        assert set(before) == {"db.0", "web.0"}
        shown = system.attributes(path)
        assert {each["name"] for each in shown[deploy.STACK_RESOURCES]} == {"db.0", "web.0"}
        assert deploy.STACK_SECRET_PARAMETERS not in shown
        assert (
            put_stack(system, instance, token=own, **secret).json["attributes"][deploy.STACK_STATE] == "CREATE_COMPLETE"
        )
        assert put_stack(system, instance, 0, token=own, **secret).status_code == 409
        planned = system.call(
            "POST",
            path,
            action=deploy.PREVIEW,
            token=own,
            attributes={deploy.STACK_TEMPLATE: STACK_WITHOUT_WEB},
        )
        changes = {each["name"]: each["state"] for each in planned.json["attributes"][deploy.STACK_RESOURCES]}
        assert changes == {"db.0": "KEEP", "web.0": "DELETE"}
        assert {each["name"] for each in system.attributes(path)[deploy.STACK_RESOURCES]} == {"db.0", "web.0"}
        scale = {deploy.SCALE_NODE: "web", deploy.SCALE_BY: 1}
        keyed = {**scale, deploy.SCALE_KEY: "e-1/web/1"}
        scaled = [system.call("POST", path, action=deploy.SCALE, token=own, attributes=keyed) for _ in range(2)]
        assert [each.status_code for each in scaled] == [200, 200]
        # The first may have been carried out before the second arrives.
        assert scaled[0].json["attributes"][deploy.STACK_STATE] == "UPDATE_IN_PROGRESS"
        system.wait(lambda: state(system, instance) == "UPDATE_COMPLETE")
        assert set(processes(system)) == {"db.0", "web.0", "web.1"}
        # The same request later has no effect either.
        again = system.call("POST", path, action=deploy.SCALE, token=own, attributes=keyed)
        assert again.json["attributes"][deploy.STACK_STATE] == "UPDATE_COMPLETE"
        too_many = system.call("POST", path, action=deploy.SCALE, token=own, attributes={**scale, deploy.SCALE_BY: 5})
        assert (too_many.status_code, "1 to 3" in too_many.text) == (409, True)
        victim = processes(system)["db.0"]
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        system.wait(lambda: processes(system).get("db.0") not in (victim, None))
        system.wait(lambda: state(system, instance) == "UPDATE_COMPLETE")
        assert system.call("POST", path, action=deploy.SUSPEND, token=own).status_code == 200
        system.wait(lambda: state(system, instance) == "SUSPEND_COMPLETE")
        assert set(processes(system).values()) == {None}
        assert system.call("POST", path, action=deploy.RESUME, token=own).status_code == 200
        system.wait(lambda: state(system, instance) == "RESUME_COMPLETE")
        notified = system.wait(
            lambda: [
                each for each in system.sent if each.attributes["org.archelon.event.data"]["state"] == "RESUME_COMPLETE"
            ]
        )
        assert notified[0].attributes["org.archelon.event.subject"] == path.removeprefix("/deploy")
        assert notified[0].instance == instance
        assert notified[0].tenant == TENANT
        assert system.call("DELETE", path, token=own).status_code == 200
        system.wait(lambda: system.gone(path))
        assert processes(system) == {}
    events = [each.event for each in system.sent]
    assert len(events) == len(set(events))


def test_outputs_are_not_listed_and_stored_encrypted(system: System) -> None:
    instance = new_instance()
    secret = {deploy.STACK_TEMPLATE: STACK + PARAMETERS + OUTPUTS, deploy.STACK_SECRET_PARAMETERS: {"word": "s3cret"}}
    assert put_stack(system, instance, **secret).status_code == 201
    with system.worker():
        system.wait(lambda: state(system, instance) == "CREATE_COMPLETE")
        shown = system.wait(lambda: system.attributes(stack_at(instance)).get(deploy.STACK_OUTPUTS))
    assert shown == {"word": "it is s3cret"}
    assert "s3cret" not in system.call("GET", "/deploy/stack/").text
    with system.database.read() as connection:
        rows = [row for table in ("occi_entities", "cloud_objects", "cloud_notices", "work")
                for row in connection.execute(sa.text(f"select * from {table}"))]  # fmt: skip
    assert rows
    assert "s3cret" not in repr(rows)


def test_an_invalid_stack_is_rejected_with_its_place(system: System) -> None:
    instance = new_instance()
    for changes, result in (
        ({deploy.STACK_TEMPLATE: "infra_name: x\nnodes: 3\n"}, "template:2"),
        ({names.REGION: "moon"}, "expected one of local"),
        ({deploy.STACK_FORMAT: "hot"}, "infrastructure"),
        ({deploy.STACK_NAME: "other"}, "PUT it at"),
    ):
        answer = put_stack(system, instance, **changes)
        assert answer.status_code == 400
        assert result in answer.text


def test_a_change_to_an_unsupported_format_is_reported_as_such(system: System) -> None:
    # An orchestrator tries its formats in turn until one is supported, at every order.
    instance = new_instance()
    assert put_stack(system, instance, **{deploy.STACK_FORMAT: "kubernetes"}).status_code == 400
    assert put_stack(system, instance).status_code == 201
    answer = put_stack(system, instance, 2, **{deploy.STACK_FORMAT: "kubernetes"})
    assert (answer.status_code, answer.json["error"]["where"]) == (400, deploy.STACK_FORMAT)
    assert put_stack(system, instance, 2).status_code == 200


def test_tenants_and_instances_are_isolated(system: System) -> None:
    mine, other = new_instance(), new_instance()
    assert put_stack(system, mine, token=system.instance_token(other)).status_code == 403
    assert put_stack(system, mine, token=system.service_token(instance=other)).status_code == 403
    assert put_stack(system, mine, token=system.instance_token(mine)).status_code == 201
    assert put_stack(system, other).status_code == 201
    path = stack_at(mine)
    stranger = system.service_token(tenant="t-2")
    for token in (system.instance_token(other), stranger, system.instance_token(mine, tenant="t-2")):
        assert system.call("GET", path, token=token).status_code == 404
        assert system.call("DELETE", path, token=token).status_code == 404
        assert system.call("POST", path, token=token, action=deploy.SUSPEND).status_code == 404
    # The path is taken, for any caller.
    assert put_stack(system, mine, token=stranger).status_code == 409
    listed = system.call("GET", "/deploy/stack/", token=system.instance_token(mine)).json["resources"]
    assert [each["attributes"][names.INSTANCE] for each in listed] == [mine]
    assert len(system.call("GET", "/deploy/stack/").json["resources"]) == 2
    assert system.call("GET", "/deploy/stack/", token=stranger).json.get("resources", []) == []
    assert system.call("GET", "/deploy/stack/", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert SERVICE in str(listed)


def test_an_order_is_one_transaction_besides_the_one_that_a_template_interrupts(system: System) -> None:
    put_bundle(system)
    begun: list[str] = []
    sa.event.listen(system.database.engine, "before_cursor_execute", lambda *given: begun.append(given[2]))
    assert put_application(system, new_instance()).status_code == 201
    assert sum(each.startswith("BEGIN") for each in begun) == 1
    begun.clear()
    assert put_stack(system, new_instance()).status_code == 201
    assert sum(each.startswith("BEGIN") for each in begun) == 2


def test_a_step_that_observes_nothing_new_writes_nothing(system: System) -> None:
    instance = new_instance()
    assert put_stack(system, instance, **{deploy.STACK_TEMPLATE: STACK_WITHOUT_WEB, **WORD}).status_code == 201
    with system.worker():
        system.wait(lambda: state(system, instance) == "CREATE_COMPLETE")
    [handler] = [each.handler for each in topics_of(system.dependencies) if each.name == "deploy.stack"]
    key = stack_at(instance).removeprefix("/deploy")
    item = Item("deploy.stack", key, TENANT, None, Token(1), generation=1, attempt=0, reason=None, deadline=0.0)
    with system.database.read() as connection:
        progress = handler.step(handler.load(connection, item))
    sent: list[str] = []
    sa.event.listen(system.database.engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    with system.database.write() as connection:
        sent.clear()
        handler.save(connection, item, progress.observed)
        assert sent == []


def test_a_notification_is_redelivered_until_it_is_acknowledged(system: System) -> None:
    instance = new_instance()
    put_bundle(system)
    put_application(system, instance)
    sent: list[str] = []

    def send(notice: Notification) -> None:
        sent.append(notice.event)
        if sent.count(notice.event) < 3:
            raise client.UnavailableError("busy", method="POST", url="", status=503, retry_after=1.0)

    def waiting() -> int:
        with system.database.read() as connection:
            return int(connection.scalar(sa.text("SELECT count(*) FROM cloud_notices")) or 0)

    assert put_stack(system, instance).status_code == 201
    with worker_of(system.dependencies, send=send):
        system.wait(lambda: state(system, instance) == "CREATE_COMPLETE" and not waiting())
    assert sent.count(sent[-1]) == 3
    with system.database.read() as connection:
        key = connection.scalar(sa.text("SELECT key FROM work WHERE topic = :topic"), {"topic": TOPIC})
    rested = system.dependencies.queue.state(TOPIC, str(key))
    # A redelivery is not a failure.
    assert rested is not None
    assert (rested.outcome, rested.attempt, rested.reason) == ("done", 0, None)


@pytest.fixture
def people(tmp_path: Path, system: System) -> dict[str, str]:
    """Tokens of users by role; `stranger` is a tenant of another tenant."""
    realm = auth.RealmFile(tmp_path / "realm.yaml", system.dependencies.clock)
    tokens = {}
    for tenant, users in (("ours", ("tenant", "read-only", "provider", "operator")), ("theirs", ("stranger",))):
        realm.add_tenant(tenant)
        for user in users:
            realm.add_user(user, tenant=tenant, roles=["tenant" if user == "stranger" else user])
            tokens[user] = realm.issue_token(user, tenant=tenant, lifetime=None).secret
    system.rebuild(realm=auth.Realm(realm, system.dependencies.clock))
    return {**tokens, "id": realm.read().tenants["ours"].id}


def test_a_tenant_reads_the_output_of_its_own_nodes(system: System, people: dict[str, str]) -> None:
    instance, other = new_instance(), new_instance()
    ours = system.service_token(tenant=people["id"])
    put_bundle(system, token=ours)
    says = "[sh, -c, 'echo here; exec sleep 1000']"
    template = STACK.replace("[sleep, '1000']", says)
    assert put_application(system, instance, token=ours).status_code == 201
    assert put_application(system, other, token=ours).status_code == 201
    assert put_stack(system, instance, token=ours, **{deploy.STACK_TEMPLATE: template}).status_code == 201
    path = f"/deploy{deploy.application_path(instance)}/logs"

    def answer(token: str, query: str = "node=web.0") -> Any:
        return system.call("GET", path, token=token, query=query)

    with system.worker():
        found = system.wait(lambda: (got := answer(people["tenant"])).status_code == 200 and got.content and got)
    assert (found.content, found.headers[deploy.LOG_START], found.headers[deploy.LOG_NEXT]) == (b"here\n", "0", "5")
    assert answer(people["tenant"], "node=web.0&since=5&stack=main&region=local").content == b""
    for token in (people["provider"], people["operator"], system.instance_token(instance, tenant=people["id"]), ours):
        assert answer(token).content == b"here\n"
    strangers = (people["stranger"], system.instance_token(other, tenant=people["id"]), system.service_token())
    assert [answer(token).status_code for token in strangers] == [404, 404, 404]
    assert answer(people["read-only"]).status_code == 403
    # The orchestrator's log, and everything else, stays closed to the tenant.
    assert answer(people["tenant"], "").status_code == 403
    assert system.call("GET", path.removesuffix("/logs"), token=people["tenant"], query="node=web.0").status_code == 403
    assert system.call("GET", stack_at(instance), token=people["tenant"]).status_code == 403
    for query, words in (("node=web.7", "web.7"), ("node=web.0&region=moon", "no stack"), ("node=web.0&stack=x", "no")):
        missing = answer(people["tenant"], query)
        assert (missing.status_code, words in missing.text) == (404, True)
    assert answer(people["tenant"], "node=web.0&node=db.0").status_code == 400
    assert answer(people["tenant"], f"node={'x' * 256}").status_code == 400


def test_a_node_of_several_stacks_is_chosen_by_its_stack(system: System) -> None:
    instance = new_instance()
    put_bundle(system)
    assert put_application(system, instance).status_code == 201
    for name in ("main", "more"):
        path = "/deploy" + deploy.stack_path(instance, name, "local")
        attributes = {
            **labels(instance),
            deploy.STACK_NAME: name,
            names.REGION: "local",
            deploy.STACK_FORMAT: "infrastructure",
            deploy.STACK_TEMPLATE: STACK,
        }
        assert system.call("PUT", path, kind=deploy.STACK, attributes=attributes).status_code == 201
    path = f"/deploy{deploy.application_path(instance)}/logs"
    with system.worker():
        system.wait(lambda: system.call("GET", path, query="node=web.0").status_code == 409)
    answer = system.call("GET", path, query="node=web.0")
    assert "main in local, more in local" in answer.text
    assert system.call("GET", path, query="node=web.0&stack=more").status_code == 200


def test_a_tenant_reads_the_output_of_two_nodes_at_once(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = new_instance()
    put_bundle(system)
    assert put_application(system, instance).status_code == 201
    assert put_stack(system, instance).status_code == 201
    path = f"/deploy{deploy.application_path(instance)}/logs"
    answers: list[Any] = []

    def read() -> None:
        answers.append(system.call("GET", path, query="node=web.0"))

    def slow(*_: Any) -> Log:
        # Another request arrives while the platform has not answered.
        read()
        return Log(b"", 0, 0)

    monkeypatch.setattr(DeclarativeStacks, "read_log", slow)
    read()
    assert [each.status_code for each in answers] == [429, 200, 200]
    assert answers[0].headers["Retry-After"] == "1"


def test_the_output_of_a_failed_node_is_in_its_reason_and_in_no_log(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    instance = new_instance()
    command = "[sh, -c, 'echo printed by ${parameters.word}; exit 3']"
    template = STACK.replace("[sleep, '1000']", command) + PARAMETERS
    changes = {deploy.STACK_TEMPLATE: template, deploy.STACK_SECRET_PARAMETERS: {"word": "s3cret"}}
    with caplog.at_level("DEBUG"), system.worker():
        assert put_stack(system, instance, **changes).status_code == 201
        reason = system.wait(
            lambda: (
                (got := str(system.attributes(stack_at(instance)).get(deploy.STACK_REASON))) and "exited" in got and got
            )
        )
    assert "exited with status 3; its last output: printed by [hidden]" in reason
    assert caplog.records
    assert [each for each in caplog.records if "printed by" in repr(vars(each))] == []
