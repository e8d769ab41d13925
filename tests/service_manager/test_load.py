"""Concurrent orders on either database: all become active, none is starved, and the costs are printed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.cloud import FakeCloudProcess
from tests.tables import Tables

from .harness import Keys, ServiceManager, make_bundle, running
from .load import order_at_once

ORDERS = int(os.environ.get("ARCHELON_TEST_LOAD", "40"))


@pytest.mark.timeout(600)
def test_all_orders_become_active(tmp_path: Path, database_url: str, tables: Tables) -> None:
    keys = Keys()
    with FakeCloudProcess(tmp_path, keys=[keys.signing.public]) as cloud:
        manager = ServiceManager(
            tmp_path,
            design_url=cloud.url + "/design",
            database_url=database_url,
            keys=keys,
            settings={"ARCHELON_LEASE": "10", "ARCHELON_ACCESS_LOG": "false"},
        )
        with running(manager):
            manager.publish(make_bundle(tmp_path / "bundle"))
            load = order_at_once(manager, cloud, ORDERS)
        entries = cloud.entries()
    tables.add(f"{database_url.partition(':')[0]}: {load.text()}")
    assert load.orders == ORDERS
    assert entries.violations == []
    assert entries.times("application started") == ORDERS
    assert entries.times("phase begun", phase="deploy") == ORDERS
    assert entries.times("phase begun", phase="provision") == ORDERS
    # Far from the usual: detects a writer that repeatedly waits for others.
    assert max(load.answers) < 10
