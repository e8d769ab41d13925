"""Invocations are resent while the orchestrator processes them, and dropped if it does not accept them in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from archelon_core import queue
from occi_service import client
from occi_service.client import UnavailableError
from service_manager.lifecycle.actions import Invocations
from service_manager.store import tables

from ..harness import make_bundle
from .in_process_api import InProcessApi


class Orchestrator:
    """Responds to each invocation with `answer`, an error or none."""

    def __init__(self) -> None:
        self.received: list[Mapping[str, Any]] = []
        self.answer: Exception | None = None

    def act(self, _address: str, attributes: Mapping[str, Any], _caller: Any) -> None:
        self.received.append(attributes)
        if self.answer is not None:
            raise self.answer


class _POKE:
    scheme, term = "http://schemas.example.org/occi/sm/demo/action#", "poke"


def test_an_invocation_is_resent_until_it_is_processed(api: InProcessApi) -> None:
    api.publish(make_bundle(api.directory / "bundle"))
    path = api.order()
    api.place(path, "active")
    assert api.act(path, _POKE).status == 200
    orchestrator = Orchestrator()
    handler = Invocations(
        api.dependencies.instances,
        orchestrator,  # type: ignore[arg-type]
        api.dependencies.cipher,
        clock=api.clock,
    )
    topic = queue.Topic("invocation", handler)
    worker = queue.Worker(queue.WorkQueue(api.dependencies.database, clock=api.clock), [topic])
    with api.dependencies.database.write() as connection:
        connection.execute(tables.instances.update().values(address="http://there", activated=1, boots=1))
    busy = UnavailableError("busy", method="POST", url="", status=503, retry_after=1.0)
    # Longer than the timeout of an invocation that is not accepted.
    for answer in [busy] * 4 + [None]:
        orchestrator.answer = answer
        api.clock.ahead += 200.0
        assert worker.run_once()
    assert len(orchestrator.received) == 5
    assert len({each["org.archelon.event.id"] for each in orchestrator.received}) == 1
    assert not waiting(api)
    assert api.act(path, _POKE).status == 200
    # A proxy's response is not the orchestrator's.
    orchestrator.answer = client.UnavailableError("bad gateway", method="POST", url="", status=502)
    for _ in range(3):
        assert worker.run_once()
        api.clock.ahead += 200.0
    assert len(orchestrator.received) == 7
    # The third attempt found it expired and dropped it.
    assert not waiting(api)


def test_pending_actions_of_an_instance_are_limited(api: InProcessApi) -> None:
    api.publish(make_bundle(api.directory / "bundle"))
    path, other = api.order(), api.order()
    for each in (path, other):
        api.place(each, "active")
    for _ in range(100):
        assert api.act(path, _POKE).status == 200
    refused = api.act(path, _POKE)
    assert refused.status == 409
    assert "100 actions are already pending" in refused.text
    assert api.act(other, _POKE).status == 200
    instance = api.row(path)["id"]
    with api.dependencies.database.write() as connection:
        one = sa.select(tables.invocations.c.id).where(tables.invocations.c.instance == instance).limit(1)
        connection.execute(tables.invocations.delete().where(tables.invocations.c.id == connection.scalar(one)))
    assert api.act(path, _POKE).status == 200


def waiting(api: InProcessApi) -> int:
    with api.dependencies.database.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(tables.invocations)) or 0)
