"""What happens between a worker's look at an instance and its writing: nobody is overruled, and nobody waits for ever."""

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
from service_manager.lifecycle.changes import Change
from service_manager.store.snapshot import legal_moves

from .desk import Desk, Keyed, Template


@pytest.fixture
def desk(tmp_path: Path, template: Template, database_url: str) -> Iterator[Desk]:
    """A desk with the test service, over either database."""
    chosen = {} if database_url.startswith("sqlite") else {"database_url": database_url}
    made = Desk(tmp_path, template, phase_retries=0, **chosen)
    made.publish_demo()
    yield made
    made.close()


def decide(desk: Desk, path: str) -> tuple[Any, queue.Progress[Change]]:
    """The worker's look at an instance, and what it decides."""
    item = Keyed(desk.row(path)["id"])
    with desk.parts.database.read() as connection:
        order = desk.reconciler.load(connection, item)
    progress: queue.Progress[Change] = desk.reconciler.step(order)
    return item, progress


def write(desk: Desk, item: Any, progress: Any) -> None:
    with desk.parts.database.write() as connection:
        desk.reconciler.save(connection, item, progress.observed)


def armed(desk: Desk, path: str) -> bool:
    state = desk.parts.queue.state("instance", desk.row(path)["id"])
    return state is not None and state.due is not None and state.due <= time.time()


def test_a_report_just_in_time_is_not_overruled_by_giving_up(desk: Desk) -> None:
    path = desk.order()
    desk.place(path, "deploy", boots=1, activated=1, sent=1, made=desk.row(path)["digest"], begun=0.0)
    item, progress = decide(desk, path)
    assert isinstance(progress, queue.Done)
    assert progress.observed is not None
    assert progress.observed.enter == "fail"
    assert desk.report(path, phase="deploy", phase_state="done").status == 200
    write(desk, item, progress)
    assert desk.row(path)["state"] == "deploy"
    assert desk.row(path)["outcome"] == "done"
    assert armed(desk, path)
    write(desk, *decide(desk, path))
    assert desk.row(path)["state"] == "provision"


def test_a_delete_is_not_shown_as_what_was_decided_before_it(desk: Desk) -> None:
    path = desk.order()
    desk.place(path, "deploy", boots=1, activated=1, sent=1, made=desk.row(path)["digest"], outcome="done")
    item, progress = decide(desk, path)
    assert desk.ask("alice", "DELETE", path).status == 200
    write(desk, item, progress)
    assert desk.attributes(path)[wire.STATE] == "destroy"
    write(desk, *decide(desk, path))
    assert desk.row(path)["state"] == "destroy"


def test_a_failure_told_twice_is_one(desk: Desk) -> None:
    """The answer to the first was lost; the second comes while the next attempt is waited for."""
    path = desk.order()
    desk.place(path, "deploy", boots=1, activated=1, attempt=1, retry_at=time.time() + 60)
    assert desk.report(path, phase="deploy", phase_state="failed", phase_message="no quota").status == 200
    assert desk.row(path)["outcome"] is None


def test_a_destroy_is_reported_under_the_generation_that_the_orchestrator_knows(desk: Desk) -> None:
    path = desk.order()
    desk.place(path, "destroy", wanted="gone", boots=1, activated=1, sent=1, generation=3, phase_generation=3)
    assert desk.report(path, phase="destroy", phase_state="done").status == 200
    assert desk.row(path)["outcome"] == "done"


def test_a_transaction_that_was_repeated_writes_no_phase_twice(desk: Desk) -> None:
    """A database that goes away while it commits leaves a worker in doubt: it writes again."""
    path = desk.order()
    desk.place(path, "deploy", boots=1, activated=1, sent=1, made=desk.row(path)["digest"], outcome="done")
    item, progress = decide(desk, path)
    write(desk, item, progress)
    write(desk, item, progress)
    phases = desk.attributes(f"/record/{desk.row(path)['id']}")["org.archelon.record.phases"]
    assert [each["phase"] for each in phases].count("provision") == 1


def test_orders_reports_and_a_worker_at_once_end_in_no_deadlock(desk: Desk) -> None:
    path = desk.order()
    row = desk.row(path)
    desk.place(path, "deploy", boots=1, activated=1, sent=1, made=row["digest"])
    token, start_token = desk.token(path), desk.start_token(path)
    kind = type_id(wire.RESOURCE_LINK)
    links = [{"target": f"http://stack.example.org/{number}", "kind": kind} for number in range(3)]
    refused: list[Any] = []
    asks = [
        lambda turn: desk.ask("alice", "POST", path, {"attributes": {"demo.size": turn}}),
        lambda turn: desk.report(path, token, links=links[: turn % 4], private={"turn": turn}),
        lambda turn: desk.act(path, wire.RENEW, who=start_token),
    ]

    def ask(which: int) -> None:
        for turn in range(15):
            answer = asks[which](turn)
            if answer.status != 200:
                refused.append(answer.text)

    def carry() -> None:
        """What a worker writes: the entity, the record, the row, the work."""
        for turn in range(30):
            try:
                with desk.parts.database.write() as connection:
                    change = Change({"stumbles": turn}, ended="done", enter="provision", message=f"turn {turn}")
                    desk.reconciler.save(connection, Keyed(row["id"]), change)
                    desk.parts.queue.enqueue(connection, "instance", row["id"])
            except sa.exc.SQLAlchemyError as error:
                refused.append(error)

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(3)]
    threads += [threading.Thread(target=carry) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused == []
    assert desk.row(path)["boots"] == 16
    assert legal_moves(desk.row(path)["state"])
