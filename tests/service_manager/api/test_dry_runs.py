"""`?dry-run=true`: the checks and the response of a request, with nothing made, changed or called."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from archelon_api import service_manager as wire
from archelon_core.database import metadata
from tests.occi_service.server.calls import Answer

from ..harness import TYPE
from .in_process_api import DIGEST, PUBLISHED, InProcessApi, Template

OWN = "/demo/3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55"
DRY = "?dry-run=true"


def stored(api: InProcessApi) -> dict[str, list[Any]]:
    """Return every row of the database."""
    with api.dependencies.database.read() as connection:
        # Other services' tables are declared if an earlier test has imported them.
        own = [each for each in metadata.sorted_tables if sa.inspect(connection).has_table(each.name)]
        return {table.name: list(connection.execute(sa.select(table))) for table in own}


def order(api: InProcessApi, query: str = DRY, **attributes: Any) -> Answer:
    return api.ask("alice", "POST", f"/demo/{query}", {"kind": TYPE, "attributes": attributes})


def test_an_order_is_shown_and_not_made(api: InProcessApi) -> None:
    api.publish_demo()
    before = stored(api)
    answer = order(api, **{"demo.size": 3})
    assert answer.status == 200, answer.text
    assert answer.json["attributes"] | {"demo.size": 3, wire.STATE: "initialise"} == answer.json["attributes"]
    assert api.ask("alice", "PUT", OWN + DRY, {"kind": TYPE}).status == 200
    assert stored(api) == before
    # The same request without it is carried out.
    assert order(api, "", **{"demo.size": 3}).status == 201


def test_an_order_is_refused_as_without(tmp_path: Path, template: Template) -> None:
    api = InProcessApi(tmp_path, template, quota_instances=1)
    api.publish_demo()
    assert order(api, **{"demo.size": "many"}).status == 400
    assert api.ask("reader", "POST", f"/demo/{DRY}", {"kind": TYPE}).status == 403
    api.order()
    for query in (DRY, ""):
        refused = order(api, query)
        assert refused.status == 403, refused.text
        assert "quota" in refused.text
    api.ask("operator", "PUT", "/operator/draining", {"draining": True}, kind="application/json")
    assert order(api).status == 503
    api.close()


def test_an_update_is_shown_and_not_made(api: InProcessApi) -> None:
    api.publish_demo()
    path = api.order()
    before = stored(api)
    answer = api.ask("alice", "POST", path + DRY, {"attributes": {"demo.size": 7}})
    assert answer.status == 200, answer.text
    assert (answer.json["attributes"]["demo.size"], answer.json["attributes"]["org.archelon.generation"]) == (7, 2)
    assert api.ask("alice", "PUT", path + DRY, {"kind": TYPE, "attributes": {"demo.size": 8}}).status == 200
    assert stored(api) == before
    assert api.ask("alice", "POST", path + DRY, {"attributes": {"org.archelon.region": "x"}}).status == 409


def test_no_delegation_is_created(tmp_path: Path, template: Template) -> None:
    with socket.create_server(("127.0.0.1", 0)) as design:
        api = InProcessApi(tmp_path, template, design_url=f"http://127.0.0.1:{design.getsockname()[1]}/design")
        # It may be composed of a service of another service manager, so an order calls design.
        api.publish_demo(depends_on=[{"http://schemas.example.org/occi/sm#elsewhere": {"inputs": []}}])
        assert order(api).status == 200
        design.setblocking(False)
        with pytest.raises(BlockingIOError):
            design.accept()
    api.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{OWN}?action=stop&dry-run=true"),
        ("DELETE", OWN + DRY),
        ("DELETE", f"/demo/{DRY}"),
        ("POST", "/demo/?action=stop&dry-run=true"),
        ("POST", f"/-/{DRY}"),
        ("POST", f"{OWN}?dry-run=yes"),
        ("POST", f"{OWN}?dry-run"),
        ("POST", f"{OWN}?dry-run=true&dry-run=true"),
        ("POST", f"{OWN}?dry%2Drun=false"),
    ],
)
def test_what_has_no_dry_run_is_refused_and_not_done(api: InProcessApi, method: str, path: str) -> None:
    api.publish_demo()
    api.ask("alice", "PUT", OWN, {"kind": TYPE})
    before = stored(api)
    answer = api.ask("alice", method, path, {"attributes": {"demo.size": 9}} if method == "POST" else b"")
    assert answer.status == 400
    assert "dry" in answer.text
    assert stored(api) == before


def test_publishing_is_checked_and_nothing_is_stored(api: InProcessApi) -> None:
    packed = api.bundle()

    def publish(who: str = "provider", archive: bytes = packed.archive, digest: str = packed.digest) -> Answer:
        return api.ask(who, "PUT", f"/bundle/{digest}{DRY}", archive, kind="application/gzip")

    before = stored(api)
    assert publish().json == {"service": TYPE, "digest": packed.digest, "outcome": "new"}
    assert publish("alice").status == 403
    assert publish(digest="0" * 64).status == 400
    assert stored(api) == before
    api.publish(packed)
    before = stored(api)
    assert publish().json["outcome"] == "unchanged"
    second = api.bundle("second", version="2")
    assert publish(archive=second.archive, digest=second.digest).json["outcome"] == "replaced"
    assert publish("rival").status == 403
    other = api.bundle("other", service_type="http://schemas.example.org/occi/other#demo")
    assert publish(archive=other.archive, digest=other.digest).status == 409
    assert stored(api) == before
    # An uploaded bundle can be published in a dry run as well.
    api.put_bundle(second)
    before = stored(api)
    entry = {"kind": PUBLISHED, "attributes": {DIGEST: second.digest}}
    assert api.ask("provider", "POST", f"/published/{DRY}", entry).status == 200
    assert stored(api) == before
    assert api.ask("provider", "PUT", f"/bundle/{second.digest}?dry_run=true", second.archive).status == 400
