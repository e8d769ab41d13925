"""Reports changes of a region's processes at once, and runs the health checks of its nodes, so that stacks are looked at rarely.

The directories of processes are watched with inotify(7): a supervisor replaces `status.json` when the state changes, and the
kernel closes `lock` when it is killed. So a supervisor need not know of the watcher, whichever worker started it. One thread does
this and the checks; it runs while `follow` is called.

When it starts, processes that do not run are reported at once, and the others little by little: nobody watched them before, and
the steps that follow hand over their checks. What happens to a host happens to all orchestrators in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from ..health import Check
from ..interface import Change, Changed
from ..recurring_checks import RecurringChecks
from . import inotify
from .launcher import Launcher
from .orders import HOSTS, Name, ProcessState
from .stack_index import listing

#: Seconds between two calls of `follow`, and after the last call until the thread ends.
_EVERY: Final = 30.0
_EXPIRY: Final = 120.0
#: Seconds between two reports of processes that run when the watcher starts.
_PACE: Final = 0.02
#: Seconds before a report that failed is repeated: the database is unavailable.
_RETRY: Final = 1.0
#: States that are not reported: whoever starts or stops a process polls it.
_EXPECTED: Final = (ProcessState.RESERVED, ProcessState.STARTING, ProcessState.STOPPING)

_logger = logging.getLogger(__name__)


class LocalWatcher:
    """Reports changes of a launcher's processes.

    Args:
        clock: monotonic seconds. chance: returns numbers in [0, 1), so that checks do not run all at once.
    """

    def __init__(
        self,
        launcher: Launcher,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._launcher = launcher
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._until = 0.0
        self._changed: Changed = lambda _: None
        #: Set while the thread reports.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._events: inotify.Inotify
        self._checks: RecurringChecks
        #: The watched directories by number of the watch, relative to the top; and the last known state of each process.
        self._paths: dict[int, tuple[str, ...]] = {}
        self._states: dict[Name, ProcessState] = {}
        self._pending: asyncio.Queue[Change]
        self._is_pending: set[Change] = set()

    def follow(self, changed: Changed) -> float:
        """Report changes from now on."""
        with self._lock:
            self._changed = changed
            self._until = self._clock() + _EXPIRY
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="watch-processes", daemon=True)
                self._thread.start()
        return _EVERY

    @property
    def tells(self) -> bool:
        """Whether changes are reported now."""
        return self._loop is not None

    def check(self, stack: str, checks: Sequence[tuple[Check, float]]) -> None:
        """Run these checks of a stack, each at its interval in seconds, instead of its former ones."""
        self._call(lambda: self._checks.replace(stack, checks))

    def close(self) -> None:
        """Stop reporting, and wait until the thread has ended."""
        with self._lock:
            thread, self._until = self._thread, 0.0
        self._call(lambda: self._main.cancel() if self._main is not None else None)
        if thread is not None:
            thread.join()

    def _call(self, action: Callable[[], object]) -> None:
        loop = self._loop
        # It may be closed just now; then nothing is reported or checked any more.
        with contextlib.suppress(RuntimeError):
            if loop is not None:
                loop.call_soon_threadsafe(action)

    # in the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(self._report_changes())
        except Exception:
            # Stacks are polled until the next call of `follow` starts it again.
            _logger.exception(
                "the watch of processes ended; see fs.inotify in sysctl if the system has no more watches"
            )
        finally:
            self._loop = None

    async def _report_changes(self) -> None:
        self._main = asyncio.current_task()
        self._checks = RecurringChecks(lambda stack: self._report(Change("stack", stack)), chance=self._chance)
        self._pending, self._is_pending = asyncio.Queue(), set()
        self._paths, self._states = {}, {}
        self._events = inotify.Inotify()
        try:
            self._watch(())
            for name, state in self._states.items():
                if state is not ProcessState.RUNNING:
                    self._report_process(name)
            self._loop = asyncio.get_running_loop()
            async with asyncio.TaskGroup() as tasks:
                for each in (self._read_events, self._report_running, self._deliver, self._expire):
                    tasks.create_task(each())
        finally:
            self._loop = None
            self._events.close()

    async def _read_events(self) -> None:
        ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._events, ready.set)
        while True:
            await ready.wait()
            ready.clear()
            for event in self._events.read():
                self._handle(event)

    def _handle(self, event: inotify.Event) -> None:
        if event.what & inotify.LOST:
            self._watch(())
            return
        path = self._paths.get(event.watch)
        if path is None:
            return
        if event.what & inotify.GONE:
            del self._paths[event.watch]
            if len(path) == 2:
                self._states.pop(Name(*path), None)
        elif len(path) < 2:
            self._watch((*path, event.name))
        elif event.name in ("lock", "status.json"):
            self._look(Name(*path))

    def _watch(self, path: tuple[str, ...]) -> None:
        """Watch the directory of all instances, of an instance or of a process, and what is in it."""
        what = inotify.MOVED_IN | (inotify.CLOSED if len(path) == 2 else inotify.CREATED)
        directory = self._launcher.instances.joinpath(*path)
        try:
            self._paths[self._events.watch(str(directory), what)] = path
            # After that, so that nothing is missed in between.
            if len(path) == 2:
                self._look(Name(*path))
                return
            entries = [each.name for each in directory.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            self._watch((*path, entry))

    def _look(self, name: Name) -> None:
        before, state = self._states.get(name), self._launcher.state(name)
        if state is None or state is before:
            return
        self._states[name] = state
        # Only a supervisor restarts a process without being asked.
        expected = before is not ProcessState.RESTARTING if state is ProcessState.RUNNING else state in _EXPECTED
        if self._loop is not None and not expected:
            self._report_process(name)

    async def _report_running(self) -> None:
        for name in [name for name, state in self._states.items() if state is ProcessState.RUNNING]:
            self._report_process(name)
            await asyncio.sleep(_PACE)

    def _report_process(self, name: Name) -> None:
        if name.instance == HOSTS:
            for instance in listing(self._launcher.instances / HOSTS / name.process / "members"):
                self._report(Change("application", instance))
            return
        stack, dot, _ = name.process.partition(".")
        self._report(Change("stack", stack) if dot else Change("application", name.instance))

    def _report(self, change: Change) -> None:
        if change not in self._is_pending:
            self._is_pending.add(change)
            self._pending.put_nowait(change)

    async def _deliver(self) -> None:
        while True:
            change = await self._pending.get()
            self._is_pending.discard(change)
            try:
                await asyncio.to_thread(self._changed, change)
            except Exception:
                _logger.warning("change notification failed; retrying", exc_info=True, extra={"subject": change.id})
                self._report(change)
                await asyncio.sleep(_RETRY)

    async def _expire(self) -> None:
        while self._clock() < self._until:
            await asyncio.sleep(_EVERY)
        assert self._main is not None
        self._main.cancel()
