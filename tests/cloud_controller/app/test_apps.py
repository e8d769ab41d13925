"""Hurtle's `app`: equivalent to an application, and private to its tenant."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon
import falcon.testing
import pytest

from archelon_api import deploy, disposal
from archelon_core import auth
from cloud_controller.app import web
from cloud_controller.deploy.logs import LogRoute
from occi_service.server.app import Application

from ..deploy.test_module import DIGEST, put_application, put_bundle
from ..system import System, labels, new_instance


@pytest.fixture
def system(tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", sqlite_url)
    put_bundle(made)
    yield made
    made.clear()


def put_app(system: System, name: str, *, tenant: str = "t-1") -> Any:
    attributes = {deploy.APP_NAME: "hello", deploy.APP_IMAGE: DIGEST}
    token = system.service_token(tenant=tenant)
    return system.call("PUT", f"/deploy/app/{name}", kind=deploy.APP, attributes=attributes, token=token)


@pytest.mark.parametrize("tenant", ["t-1", "t-2"])
def test_an_app_cannot_take_over_an_instances_orchestrator(system: System, tenant: str) -> None:
    instance = new_instance()
    assert put_application(system, instance).status_code == 201
    answer = put_app(system, instance, tenant=tenant)
    assert (answer.status_code, "is an instance already" in answer.text) == (409, True)


def test_an_application_cannot_take_over_an_app(system: System) -> None:
    instance = new_instance()
    assert put_app(system, instance).status_code == 201
    assert put_application(system, instance).status_code == 409


def test_an_app_of_an_instance_that_is_disposed_of_is_refused(system: System) -> None:
    instance = new_instance()
    path = "/disposal" + disposal.disposal_path(instance)
    assert system.call("PUT", path, kind=disposal.DISPOSAL, attributes=labels(instance)).status_code == 201
    assert put_app(system, instance).status_code == 409


@pytest.mark.parametrize("name", ["not-an-id", "..", "a/b", "x" * 130])
def test_an_invalid_app_id_is_rejected(system: System, name: str) -> None:
    assert put_app(system, name).status_code in (400, 404)


def test_only_its_tenant_may_read_the_log_of_an_app(system: System) -> None:
    instance = new_instance()
    path = f"/deploy/app/{instance}"
    assert put_app(system, instance).status_code == 201
    with system.worker():
        system.wait(lambda: system.attributes(path)[deploy.APP_STATE] == "active")
        shown = system.wait(lambda: (got := system.call("GET", path + "/logs", query="since=0")).content and got)
        assert b"up" in shown.content
        stranger = system.service_token(tenant="t-2")
        assert system.call("GET", path + "/logs", token=stranger).status_code == 404
        assert system.call("DELETE", path).status_code == 200
        system.wait(lambda: system.gone(path))


# Of two places, one tenant gets one.
@pytest.mark.parametrize("followers", [1, 2])
def test_the_number_of_following_readers_is_limited(system: System, followers: int) -> None:
    instance = new_instance()
    assert put_application(system, instance).status_code == 201
    provider = auth.Identity(
        subject="bob",
        tenant_id=auth.TenantId("t-1"),
        tenant_name="",
        roles=frozenset({auth.Role.PROVIDER}),
        kind=auth.TokenKind.USER,
        expires=None,
        issuer="realm",
        token_id="1",
    )
    extras = {"identity": provider, "caller": provider}
    holding, go_on = threading.Semaphore(0), threading.Event()

    def sleep(_seconds: float) -> None:
        holding.release()
        go_on.wait(timeout=60)

    registry = system.dependencies.registry()
    for module in web.modules_of(system.dependencies):
        module.register(Application(registry))
    # Each read of the clock advances it by the follow timeout, so a reader times out after one sleep.
    ticks = itertools.count(step=20)
    route = LogRoute(
        registry, system.platform.applications, followers=followers, clock=lambda: float(next(ticks)), sleep=sleep
    )

    def follow() -> None:
        environ = falcon.testing.create_environ(query_string="since=0&follow=1")
        environ["archelon.extras"] = extras
        route.on_get(falcon.Request(environ), falcon.Response(), instance)

    first = threading.Thread(target=follow)
    first.start()
    assert holding.acquire(timeout=60)
    # The only place is taken: the second reader gets an immediate response.
    second = threading.Thread(target=follow)
    second.start()
    second.join(timeout=60)
    alive = second.is_alive()
    go_on.set()
    first.join(timeout=60)
    second.join(timeout=60)
    assert not alive
    assert not first.is_alive()
