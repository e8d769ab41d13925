"""Requests of `self.deployment`: none for what is known, one for what a notification names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import bundles
import sdk
from archelon_api import deploy
from occi_service.client.connections import Request
from sdk.events import IdempotencyScope
from sdk.testing import fake_cloud
from sdk.testing.fake_cloud import DirectServiceClients, FakeCloud

_TEMPLATE = "infra_name: x\nnodes: [{name: a, type: a}]\n'node_def:a': [{resource: {type: none}}]\n"
_INSTANCE = "11111111-1111-4111-8111-111111111111"


class _Waiter:
    """A waiter whose notifications the test counts; each wait takes as long as it may."""

    def __init__(self) -> None:
        self.time = 0.0
        self.subjects: Counter[str] = Counter()

    def now(self) -> float:
        return self.time

    def heard(self, subject: str | None = None) -> int:
        return self.subjects.total() if subject is None else self.subjects[subject]

    def wait(self, seconds: float, heard: int | None = None) -> None:
        self.time += seconds

    def check(self) -> None:
        return


class _Region:
    """A deployment, and the requests that it has sent to deploy."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (directory / "manifest.yaml").write_text(
            "service_type: http://s/occi#top\ntemplates: {infrastructure: {deployment: t.yaml}}\n"
        )
        (directory / "t.yaml").write_text(_TEMPLATE)
        self.requests: list[str] = []
        self.waiter = _Waiter()
        self.cloud = FakeCloud()
        send = fake_cloud._Direct.send

        def recorded(direct: Any, request: Request, *given: Any, **named: Any) -> Any:
            path = request.target.partition("?")[0]
            if path.startswith("/deploy/stack/"):
                self.requests.append("LIST" if path.endswith("/") else request.method)
            return send(direct, request, *given, **named)

        monkeypatch.setattr(fake_cloud._Direct, "send", recorded)
        instance = sdk.Instance(_INSTANCE, "t", "http://s/occi#top")
        services = DirectServiceClients(self.cloud, "http://cloud/manager/1")
        self.deployment = sdk.Deployment(
            sdk.Design(services, lambda: instance),
            lambda: instance,
            bundle=bundles.Bundle.load(directory),
            waiter=self.waiter,
            scope=IdempotencyScope(),
        )

    def sent(self) -> list[str]:
        found, self.requests = self.requests, []
        return found


@pytest.fixture
def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Region:
    return _Region(tmp_path, monkeypatch)


def test_an_order_lists_once_and_reads_only_while_it_waits(region: _Region) -> None:
    [done] = region.deployment.deploy()
    assert done.state == "CREATE_COMPLETE"
    sent = region.sent()
    assert sent[:2] == ["LIST", "PUT"]
    assert {*sent[2:]} == {"GET"}
    assert [each.state for each in region.deployment.stacks()] == ["CREATE_COMPLETE"]
    assert region.sent() == []


def test_a_stack_is_read_again_after_a_notification_about_it(region: _Region) -> None:
    [done] = region.deployment.deploy()
    [kept] = region.cloud.find("deploy", deploy.STACK.location)
    region.cloud.keep("deploy", kept.location, {**kept.attributes, deploy.STACK_HEALTH: "down"})
    region.sent()
    region.waiter.subjects[done.path] += 1
    assert region.deployment.stack().health == "down"
    assert region.sent() == ["GET"]


def test_stacks_are_listed_again_after_a_notification_about_another(region: _Region) -> None:
    region.deployment.deploy()
    region.sent()
    region.waiter.subjects["/stack/another"] += 1
    region.deployment.stacks()
    assert region.sent() == ["LIST"]
    region.deployment.stacks()
    assert region.sent() == []


def test_a_stack_is_read_again_after_a_while_and_after_an_order(region: _Region) -> None:
    region.deployment.deploy()
    region.sent()
    region.waiter.time += 60.0
    region.deployment.stacks()
    assert region.sent() == ["GET"]
    region.deployment.suspend()
    assert region.sent()[0] == "POST"
    region.deployment.dispose()
    region.sent()
    assert region.deployment.stacks() == []
    assert region.sent() == []


def test_what_is_heard_between_an_order_and_the_wait_ends_the_wait(region: _Region) -> None:
    made = region.deployment.put("top", "t.yaml", "infrastructure", region="local")
    region.waiter.subjects[made.path] += 1
    region.deployment._await_change(made.path, 100.0)
    assert region.waiter.time == 0.0
    region.deployment._read(made.path)
    region.deployment._await_change(made.path, 100.0)
    assert region.waiter.time == 100.0


def test_a_failed_stack_is_removed_before_it_is_ordered_again(region: _Region) -> None:
    region.cloud.fails["top"] = "no such flavour"
    with pytest.raises(sdk.StackFailure):
        region.deployment.deploy()
    region.cloud.fails.clear()
    region.sent()
    [done] = region.deployment.deploy()
    assert done.state == "CREATE_COMPLETE"
    assert "DELETE" in region.sent()
