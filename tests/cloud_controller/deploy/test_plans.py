"""What an order costs does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plans import statements

from ..system import System, new_instance
from .test_module import put_application, put_bundle


@pytest.fixture
def system(tmp_path: Path, database_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", database_url)
    yield made
    made.clear()


def test_an_order_reads_no_table_whole(system: System) -> None:
    assert put_bundle(system).status_code == 201
    worker = system.worker()
    # Recurring work, which may look through everything, is not due again.
    while worker.run_once():
        pass
    with statements(system.database) as seen:
        instance = new_instance()
        assert put_application(system, instance).status_code == 201
        for _ in range(5):
            worker.run_once()
        system.call("GET", f"/deploy/application/{instance}")
    assert len(seen.seen) > 10
    assert seen.scans(system.database) == []
