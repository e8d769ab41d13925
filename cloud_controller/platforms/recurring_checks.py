"""Runs health checks in memory, each at its own interval, so that a stack is looked at only when one of them fails.

A step of a stack hands over the checks that its nodes have passed. The first one that fails is reported, and runs again only once
the stack's next step has handed it over.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

from ..infrastructure.resources import ObservedNode, WantedNode
from .health import Check, check_one

#: Seconds for which checks run without a further step of their stack: another worker may have taken it.
_VALID: Final = 900.0
#: Times within an interval at which checks run.
_TURNS: Final = 10
#: Maximum concurrent checks.
_AT_ONCE: Final = 32

_logger = logging.getLogger(__name__)


@runtime_checkable
class Checked(Protocol):
    """A resource type whose nodes' checks can be run apart from a step; optional for a type."""

    def check_of(self, wanted: WantedNode, seen: ObservedNode) -> Check:
        """Return the check of a node, without references."""


class Telling(Protocol):
    """A platform's watcher that reports changes of nodes, and runs their checks."""

    @property
    def tells(self) -> bool:
        """Whether it does so now, so that a stack need not be polled."""

    def check(self, stack: str, checks: Sequence[tuple[Check, float]]) -> None:
        """Run these checks of a stack, each at its interval in seconds, instead of its former ones."""


class RecurringChecks:
    """Checks of stacks. Everything happens in the event loop that calls.

    Args:
        failed: called with the stack's id.
        clock: monotonic seconds. chance: returns numbers in [0, 1), so that checks do not run all at once.
    """

    def __init__(
        self,
        failed: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._failed = failed
        self._clock = clock
        self._chance = chance
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}

    def replace(self, stack: str, checks: Sequence[tuple[Check, float]]) -> None:
        """Run these checks of a stack, each at its interval in seconds, instead of its former ones."""
        for task in self._tasks.pop(stack, ()):
            task.cancel()
        if checks:
            self._tasks[stack] = [asyncio.create_task(self._run(stack, *each)) for each in checks]

    async def _run(self, stack: str, check: Check, interval: float) -> None:
        until = self._clock() + _VALID
        pause = interval * self._chance()
        while True:
            await asyncio.sleep(pause)
            if self._clock() >= until:
                return
            try:
                async with self._slots:
                    problem = await check_one(check)
            except Exception as error:
                _logger.exception("health check cannot be run", extra={"stack": stack})
                problem = type(error).__name__
            if problem:
                self._failed(stack)
                return
            # Many checks in one turn: one alone, after a pause, costs twice as much.
            pause = interval - self._clock() % (interval / _TURNS)
