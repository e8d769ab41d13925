"""Health checks between the steps of a stack: when they run, and what is reported of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cloud_controller.platforms import recurring_checks
from cloud_controller.platforms.health import Check
from cloud_controller.platforms.recurring_checks import RecurringChecks

CHECK = Check(ports={})


class Checked:
    """Stands for the node: counts checks, and fails them as told."""

    def __init__(self) -> None:
        self.checks = 0
        self.problem = ""
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, _check: Check) -> str:
        self.checks += 1
        self.asked.set()
        await self.answers.wait()
        if self.problem == "raise":
            raise OSError
        return self.problem


Scenario = Callable[[RecurringChecks, Checked, list[str]], Coroutine[Any, Any, None]]


def run(scenario: Scenario, monkeypatch: pytest.MonkeyPatch, *, clock: Callable[[], float] = lambda: 0.0) -> list[str]:
    failed: list[str] = []

    async def main() -> None:
        node = Checked()
        monkeypatch.setattr(recurring_checks, "check_one", node)
        async with asyncio.timeout(60):
            await scenario(RecurringChecks(failed.append, clock=clock, chance=lambda: 0.0), node, failed)

    asyncio.run(main())
    return failed


async def until(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("problem", ["no answer", "raise"])
def test_the_first_failure_is_reported_and_ends_the_check(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(checks: RecurringChecks, node: Checked, failed: list[str]) -> None:
        checks.replace("s1", [(CHECK, 0.001)])
        await until(lambda: node.checks >= 3)
        assert not failed
        node.problem = problem
        await until(lambda: bool(failed))
        await until(lambda: len(asyncio.all_tasks()) == 1)

    assert run(scenario, monkeypatch) == ["s1"]


def test_a_check_that_is_replaced_while_it_runs_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(checks: RecurringChecks, node: Checked, _failed: list[str]) -> None:
        node.answers.clear()
        checks.replace("s1", [(CHECK, 0.001)])
        await node.asked.wait()
        checks.replace("s1", ())
        node.answers.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    assert run(scenario, monkeypatch) == []


def test_checks_end_when_no_step_renews_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    async def scenario(checks: RecurringChecks, node: Checked, _failed: list[str]) -> None:
        nonlocal now
        checks.replace("s1", [(CHECK, 0.001)])
        await until(lambda: node.checks >= 2)
        now = 1000.0
        await until(lambda: len(asyncio.all_tasks()) == 1)

    assert run(scenario, monkeypatch, clock=lambda: now) == []
