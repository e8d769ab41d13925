"""Orders on PostgreSQL, in sequence and concurrently."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon_api import service_manager as wire
from tests.occi_service.server.calls import Answer

from ..harness import TYPE
from .in_process_api import DIGEST, PUBLISHED, InProcessApi, Template

pytestmark = pytest.mark.postgres


@pytest.fixture
def api(tmp_path: Path, template: Template, postgres_url: str) -> Iterator[InProcessApi]:
    """The in-process client over PostgreSQL."""
    made = InProcessApi(tmp_path, template, database_url=postgres_url)
    yield made
    made.close()


def at_once(count: int, ask: Any) -> list[Answer]:
    """Send requests concurrently and return the responses."""
    start = threading.Barrier(count)
    answers: list[Answer] = []

    def run(number: int) -> None:
        start.wait(10)
        answers.append(ask(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == count
    return answers


def test_an_order_its_changes_and_its_end(api: InProcessApi) -> None:
    entry = api.publish_demo()
    path = api.order(**{"demo.password": "x"})
    assert api.ask("alice", "POST", path, {"attributes": {"demo.size": 5}}).status == 200
    api.place(path, "deploy", boots=1, activated=1, sent=1)
    links = [{"target": "http://deploy/stack/1", "kind": wire.RESOURCE_LINK.scheme + "resource"}]
    assert api.report(path, phase="deploy", phase_state="done", outputs={"a": "b"}, links=links).status == 200
    assert api.attributes(path)["a"] == "b"
    assert api.act(path, wire.LOCK).status == 200
    assert api.act(path, wire.UNLOCK).status == 200
    assert api.ask("alice", "DELETE", path).status == 200
    api.remove(path)
    assert api.ask("alice", "GET", path).status == 404
    assert api.ask("alice", "GET", "/resource/").json == {}
    assert api.ask("provider", "DELETE", entry).status == 200


def test_a_quota_holds_for_concurrent_orders(api: InProcessApi) -> None:
    api.publish_demo(quotas={"instances": 3})
    answers = at_once(8, lambda _: api.ask("alice", "POST", "/demo/", {"kind": TYPE}))
    assert sorted([each.status for each in answers]) == [201] * 3 + [403] * 5


def test_concurrent_orders_at_one_path_create_one_instance(api: InProcessApi) -> None:
    api.publish_demo()
    path = "/demo/3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55"
    answers = at_once(6, lambda _: api.ask("alice", "PUT", path, {"kind": TYPE}))
    assert sorted([each.status for each in answers]) == [200] * 5 + [201]
    assert len(api.ask("alice", "GET", "/record/").json["resources"]) == 1


def test_a_bundle_is_new_for_one_of_several_concurrent_uploads(api: InProcessApi) -> None:
    packed = api.bundle()
    answers = at_once(4, lambda _: api.put_bundle(packed))
    assert sorted([each.status for each in answers]) == [200] * 3 + [201]
    assert api.put_bundle(packed).status == 200


def test_one_of_two_concurrent_publishers_gets_the_type(api: InProcessApi) -> None:
    packed = [api.bundle(str(number), version=str(number)) for number in range(2)]
    users = ("provider", "rival")
    for who, each in zip(users, packed, strict=True):
        api.put_bundle(each, who)

    def publish(number: int) -> Answer:
        body = {"kind": PUBLISHED, "attributes": {DIGEST: packed[number].digest}}
        return api.ask(users[number], "POST", "/published/", body)

    assert sorted([each.status for each in at_once(2, publish)]) == [201, 403]
    assert api.order()
