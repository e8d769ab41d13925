"""Races between a worker's decision and its write: no change is overwritten, and no transaction deadlocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from archelon_api import service_manager as wire
from archelon_core import queue
from occi_service.model import type_id
from service_manager.lifecycle.changes import InstanceChange
from service_manager.store.snapshot import LEGAL_MOVES

from .in_process_api import InProcessApi, Keyed, Template


@pytest.fixture
def api(tmp_path: Path, template: Template, database_url: str) -> Iterator[InProcessApi]:
    """The in-process client with the test service published, over either database."""
    chosen = {} if database_url.startswith("sqlite") else {"database_url": database_url}
    made = InProcessApi(tmp_path, template, phase_retries=0, **chosen)
    made.publish_demo()
    yield made
    made.close()


def decide(api: InProcessApi, path: str) -> tuple[Any, queue.Progress[InstanceChange]]:
    """Load an instance as a worker does, and return its decision."""
    item = Keyed(api.row(path)["id"])
    with api.dependencies.database.read() as connection:
        order = api.reconciler.load(connection, item)
    progress: queue.Progress[InstanceChange] = api.reconciler.step(order)
    return item, progress


def write(api: InProcessApi, item: Any, progress: Any) -> None:
    with api.dependencies.database.write() as connection:
        api.reconciler.save(connection, item, progress.observed)


def armed(api: InProcessApi, path: str) -> bool:
    state = api.dependencies.queue.state("instance", api.row(path)["id"])
    return state is not None and state.due is not None and state.due <= time.time()


def test_a_late_report_is_not_overwritten_by_a_failure(api: InProcessApi) -> None:
    path = api.order()
    api.place(path, "deploy", boots=1, activated=1, sent=1, made=api.row(path)["digest"], begun=0.0)
    item, progress = decide(api, path)
    assert isinstance(progress, queue.Done)
    assert progress.observed is not None
    assert progress.observed.enter == "fail"
    assert api.report(path, phase="deploy", phase_state="done").status == 200
    write(api, item, progress)
    assert api.row(path)["state"] == "provision"
    assert armed(api, path)


def test_an_earlier_decision_does_not_overwrite_a_delete(api: InProcessApi) -> None:
    path = api.order()
    api.place(path, "deploy", boots=1, activated=1, sent=1, made=api.row(path)["digest"], outcome="done")
    item, progress = decide(api, path)
    assert api.ask("alice", "DELETE", path).status == 200
    write(api, item, progress)
    assert api.attributes(path)[wire.STATE] == "destroy"
    write(api, *decide(api, path))
    assert api.row(path)["state"] == "destroy"


def test_a_repeated_failure_report_counts_once(api: InProcessApi) -> None:
    """The response to the first was lost; the second arrives during the pause before the next attempt."""
    path = api.order()
    api.place(path, "deploy", boots=1, activated=1, attempt=1, retry_at=time.time() + 60)
    assert api.report(path, phase="deploy", phase_state="failed", phase_message="no quota").status == 200
    assert api.row(path)["outcome"] is None


def test_a_destroy_is_reported_under_the_generation_that_the_orchestrator_knows(api: InProcessApi) -> None:
    path = api.order()
    api.place(path, "destroy", wanted="gone", boots=1, activated=1, sent=1, generation=3, phase_generation=3)
    assert api.report(path, phase="destroy", phase_state="done").status == 200
    assert api.row(path)["outcome"] == "done"


def test_a_repeated_transaction_writes_no_phase_twice(api: InProcessApi) -> None:
    """A database that disconnects during a commit leaves the outcome unknown, so the worker writes again."""
    path = api.order()
    api.place(path, "deploy", boots=1, activated=1, sent=1, made=api.row(path)["digest"], outcome="done")
    item, progress = decide(api, path)
    write(api, item, progress)
    write(api, item, progress)
    phases = api.attributes(f"/record/{api.row(path)['id']}")["org.archelon.record.phases"]
    assert [each["phase"] for each in phases].count("provision") == 1


def test_concurrent_orders_reports_and_workers_do_not_deadlock(api: InProcessApi) -> None:
    path = api.order()
    row = api.row(path)
    api.place(path, "deploy", boots=1, activated=1, sent=1, made=row["digest"])
    token, start_token = api.token(path), api.start_token(path)
    kind = type_id(wire.RESOURCE_LINK)
    links = [{"target": f"http://stack.example.org/{number}", "kind": kind} for number in range(3)]
    refused: list[Any] = []
    asks = [
        lambda number: api.ask("alice", "POST", path, {"attributes": {"demo.size": number}}),
        lambda number: api.report(path, token, links=links[: number % 4], private={"number": number}),
        lambda number: api.act(path, wire.RENEW, who=start_token),
    ]

    def ask(which: int) -> None:
        for number in range(15):
            answer = asks[which](number)
            if answer.status != 200:
                refused.append(answer.text)

    def carry() -> None:
        """Write like a worker: the entity, the record, the row, the work."""
        for number in range(30):
            try:
                with api.dependencies.database.write() as connection:
                    change = InstanceChange(
                        {"consecutive_failures": number}, ended="done", enter="provision", message=f"change {number}"
                    )
                    api.reconciler.save(connection, Keyed(row["id"]), change)
                    api.dependencies.queue.enqueue(connection, "instance", row["id"])
            except sa.exc.SQLAlchemyError as error:
                refused.append(error)

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(3)]
    threads += [threading.Thread(target=carry) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused == []
    assert api.row(path)["boots"] == 16
    assert LEGAL_MOVES[api.row(path)["state"]]
