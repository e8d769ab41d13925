"""An idle orchestrator has no thread: the engine and the report queue start theirs with work, and end them without."""

from __future__ import annotations

import contextlib
import contextvars
import threading

import pytest

from archelon_api import names
from sdk.runtime.clients import Clients
from sdk.runtime.reporting import ReportQueue
from sdk.runtime.threads import OnDemandThread
from sdk.testing.http_fakes import Bench
from tests.waiting import until

from .test_events import System, system

__all__ = ["system"]


def is_idle(name: str) -> bool:
    return not any(each.name == name for each in threading.enumerate())


def test_an_engine_has_a_thread_only_while_it_works(system: System) -> None:
    engine = system.engine
    with contextlib.closing(engine):
        engine.open()
        assert is_idle("orchestrator")
        for phase in ("deploy", "provision"):
            engine.phase(phase, 1)
            until(lambda: bool(system.pending), f"{phase} is reported")
            system.acknowledge()
            until(lambda: is_idle("orchestrator"), "its thread has ended")


def test_a_report_queue_has_a_thread_only_until_its_reports_are_acknowledged() -> None:
    with Bench() as bench, contextlib.closing(Clients()) as clients:
        queue = ReportQueue(bench.environment["ARCHELON_SERVICE_MANAGER"], bench.start_token, clients=clients)
        with contextlib.closing(queue):
            queue.open()
            assert bench.await_renewal()
            until(lambda: is_idle("reports"), "the thread that renewed has ended")
            bench.away = 2
            queue.report("first", {names.GENERATION: 1}, lambda: None)
            assert bench.watch(lambda: len(bench.reports) == 1)
            until(lambda: is_idle("reports"), "the thread that reported has ended")
            queue.report("second", {names.GENERATION: 2}, lambda: None)
            assert bench.watch(lambda: len(bench.reports) == 2)


def test_work_that_gets_no_thread_is_not_recorded(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = system.engine
    with contextlib.closing(engine):
        engine.open()

        def refuse(_self: OnDemandThread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(OnDemandThread, "start", refuse)
            with pytest.raises(RuntimeError):
                engine.phase("deploy", 1)
        # The repetition is not taken for one of a phase in progress.
        engine.phase("deploy", 1)
        until(lambda: len(system.pending) == 1, "the phase is reported")


def test_the_end_of_an_engine_tells_whether_its_work_has_ended(system: System) -> None:
    entered, left = threading.Event(), threading.Event()

    def during() -> None:
        entered.set()
        left.wait(60)

    system.kinds.during = during
    system.engine.open()
    system.send()
    assert entered.wait(60)
    assert not system.engine.close(0.01)
    left.set()
    assert system.engine.close(60)


def test_work_runs_in_the_context_of_its_owner() -> None:
    variable = contextvars.ContextVar("variable", default="")
    variable.set("owner's")
    found: list[str] = []
    thread = OnDemandThread(lambda: found.append(variable.get()), name="tested")
    contextvars.Context().run(thread.start)
    thread.join(60.0)
    assert found == ["owner's"]
