"""What an order costs does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon_api import service_manager as wire
from tests.plans import statements

from .in_process_api import InProcessApi, Template


@pytest.fixture
def api(tmp_path: Path, template: Template, database_url: str) -> Iterator[InProcessApi]:
    made = InProcessApi(tmp_path, template, database_url=database_url, quota_instances=1000)
    yield made
    made.close()


def test_an_order_reads_no_table_whole(api: InProcessApi) -> None:
    api.publish_demo()
    api.order()
    with statements(api.dependencies.database) as seen:
        path = api.order()
        api.work("instance")
        api.report(path, phase="deploy", phase_state="done")
        assert api.attributes(path)[wire.STATE]
        assert api.ask("alice", "GET", "/demo/", headers={"X-OCCI-Attribute": "demo.size=1"}).status == 200
        assert api.ask("alice", "GET", "/", headers={}).status == 200
        assert api.ask("alice", "DELETE", path).status == 200
        api.remove(path)
    assert len(seen.seen) > 20
    assert seen.scans(api.dependencies.database) == []
