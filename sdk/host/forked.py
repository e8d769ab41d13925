"""Serves each instance of one bundle, and one tenant, in a process of its own, forked from this one.

This process has imported the SDK, and has no thread, client or TLS context. A child shares its pages until it changes them,
becomes what `sdk.serve` is, and is restarted when it exits. Its output comes through a pipe, since it could not rotate its log
itself.

A child that the author's code leaves behind cannot escape: an instance's process adopts all its descendants whose parents exit,
this process adopts them when that process has exited, and kills every child that it did not fork itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import encodings.idna  # noqa: F401 - each process imports it when it listens
import functools
import gc
import logging
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import bundles
from archelon_core import logs, redaction
from archelon_core.auth import read_jwk_set
from archelon_core.backoff import Backoff
from archelon_core.http import gunicorn_worker
from archelon_core.log_segments import LogSegments
from archelon_core.private_files import private_umask

from .. import serve
from ..errors import Failure
from ..runtime import app
from ..runtime.http import OrchestratorApplication
from ..settings import ENV_KEYS
from ..templates import Document
from .directory import LOOK, WRITE_RETRY, HostDirectory, Order, OrderError, Stamp, drain

_LOG: Final = logging.getLogger("archelon.host")
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
#: JWK sets that are kept: a service manager has one, and replaces it seldom.
_KEY_SETS: Final = 4
#: Children that import the author's code and load the rest at the same time.
_AT_ONCE: Final = 4
_BACKOFF: Final = Backoff(0.5, longest=30.0)
_RESTARTS: Final = 5
#: Seconds of running after which restarts are counted anew.
_WINDOW: Final = 60.0
#: Seconds from SIGTERM to SIGKILL.
_GRACE: Final = 10.0
_NEVER: Final = float("inf")


def main() -> None:
    """Serve the current directory's orders until SIGTERM, and return when all children have ended."""
    private_umask()
    logs.configure(redaction.Redactor(), service="host", stream=sys.stdout)
    ForkedHost(Path()).run()


@dataclasses.dataclass(slots=True)
class _Hosted:
    """An instance and its process.

    Attributes:
        wanted, present: stamps of the order that is wanted, and of the one that was carried out; None for none.
        digest: of the present order.
        pid: of the process; 0 for none.
        output: end of its output's pipe; loading: end of a pipe that it closes when it has loaded; -1 for none.
        due: when to start it; end_at: when to kill it; monotonic.
    """

    instance: str
    log: LogSegments
    wanted: Stamp | None = None
    present: Stamp | None = None
    digest: str = ""
    pid: int = 0
    output: int = -1
    loading: int = -1
    started: float = 0.0
    due: float = _NEVER
    end_at: float = _NEVER
    restarts: int = 0


class ForkedHost:
    """The orchestrators of one directory; its constructor and `run` belong in the main thread of a process of their own.

    Args:
        root: the host's directory.
    """

    def __init__(self, root: Path) -> None:
        self._directory = HostDirectory(root)
        application = OrchestratorApplication()
        self._shared = app.Shared(
            load=functools.cache(app.load_checked),
            keys=functools.lru_cache(_KEY_SETS)(read_jwk_set),
            # Each process needs one.
            applications=lambda: application,
        )
        self._hosted: dict[str, _Hosted] = {}
        self._terminated = self._announced = False
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._own_pid = os.getpid()
        self._poll = select.poll()
        #: What to do when a descriptor is ready.
        self._ready: dict[int, Callable[[], object]] = {}
        self._bell = self._directory.bell()
        self._wakeup, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._on_end)
        self._watch(self._bell.fileno(), self._on_bell)
        self._watch(self._wakeup, lambda: None)

    def _on_end(self, _number: int, _frame: FrameType | None) -> None:
        self._terminated = True

    def _on_bell(self) -> None:
        self._announced = True
        drain(self._bell)

    def run(self) -> None:
        """Serve until SIGTERM."""
        gunicorn_worker.configuration()
        gc.collect()
        looked = -_NEVER
        while True:
            now = time.monotonic()
            if self._announced or self._terminated or now - looked >= LOOK:
                looked, self._announced = now, False
                self._look()
            self._reap()
            for hosted in [*self._hosted.values()]:
                self._advance(hosted, time.monotonic())
            if self._terminated and not self._hosted:
                return
            self._await(looked + LOOK)

    def _look(self) -> None:
        try:
            orders = {} if self._terminated else self._directory.orders()
        except OSError as error:
            _LOG.warning("the orders cannot be listed: %s", error)
            return
        for instance in orders.keys() - self._hosted.keys():
            self._hosted[instance] = _Hosted(instance, self._directory.log(instance))
        for instance, hosted in self._hosted.items():
            hosted.wanted = orders.get(instance)

    def _await(self, look_at: float) -> None:
        """Wait for output, the end of a child, a datagram or a signal, or until something is due."""
        now = time.monotonic()
        until = look_at if self._directory.flush() else min(look_at, now + WRITE_RETRY)
        can_start = self._can_start()
        for each in self._hosted.values():
            until = min(until, each.end_at, each.due if can_start else _NEVER)
        for descriptor, _ in self._poll.poll(max(0.0, until - now) * 1000):
            if descriptor == self._wakeup:
                with contextlib.suppress(BlockingIOError):
                    os.read(descriptor, 4096)
            elif descriptor in self._ready:
                self._ready[descriptor]()

    # instances --------------------------------------------------------------------------------------------------------

    def _advance(self, hosted: _Hosted, now: float) -> None:
        changed = hosted.wanted != hosted.present
        if hosted.pid:
            if changed and hosted.end_at == _NEVER:
                hosted.end_at = now + _GRACE
                os.kill(hosted.pid, signal.SIGTERM)
            elif now >= hosted.end_at:
                os.kill(hosted.pid, signal.SIGKILL)
                hosted.end_at = now + _GRACE
            return
        if hosted.wanted is None:
            self._directory.withdraw(hosted.instance)
            del self._hosted[hosted.instance]
            return
        if changed:
            hosted.present, hosted.restarts, hosted.due = hosted.wanted, 0, now
        if now >= hosted.due and self._can_start():
            self._start(hosted, now)

    def _can_start(self) -> bool:
        return sum(each.loading >= 0 for each in self._hosted.values()) < _AT_ONCE

    def _start(self, hosted: _Hosted, now: float) -> None:
        hosted.due = _NEVER
        try:
            order = self._directory.read(hosted.instance)
            hosted.digest = order.digest
            self._preload(order)
            pid, output, loading = self._fork(order)
        except FileNotFoundError:
            # It is gone since it was listed.
            return
        except OrderError as error:
            _LOG.warning("instance %s cannot be served: %s", hosted.instance, error)
            self._directory.report(hosted.instance, "failed", error.digest, str(error))
            return
        except OSError as error:
            self._restart(hosted, f"cannot be started: {error.strerror}", now)
            return
        hosted.pid, hosted.output, hosted.loading, hosted.started = pid, output, loading, now
        self._watch(output, lambda: self._copy_output(hosted))
        self._watch(loading, lambda: self._on_loaded(hosted))
        self._directory.report(hosted.instance, "running", hosted.digest, restarts=hosted.restarts)

    def _fork(self, order: Order) -> tuple[int, int, int]:
        """Fork a process; return its id, and the ends of the pipes for its output, and for its having loaded. Raises OSError."""
        ends: list[int] = []
        try:
            ends += os.pipe2(os.O_CLOEXEC)
            ends += os.pipe2(os.O_CLOEXEC)
            output, child_output, loading, child_loading = ends
            os.set_blocking(output, False)
            sys.stdout.flush()
            pid = os.fork()
        except OSError:
            for each in ends:
                os.close(each)
            raise
        if pid == 0:
            self._become(order, child_output, child_loading)
        os.close(child_output)
        os.close(child_loading)
        return pid, output, loading

    def _preload(self, order: Order) -> None:
        """Load what each process of the bundle needs, so that they share it."""
        try:
            self._shared.keys(order.environment.get(ENV_KEYS, ""))
            bundle = self._shared.load(order.bundle)
            for template_format, found in bundle.manifest.templates.items():
                Document.read(bundle, found.deployment, template_format, found.environments)
        except (bundles.BundleError, Failure, ValueError, RecursionError) as error:
            # The process reports it, in its log or with its first phase.
            _LOG.warning("what %s needs cannot be loaded: %s", order.bundle, type(error).__name__)
        # Collections must not touch, and so copy, what the processes share.
        gc.freeze()

    def _become(self, order: Order, output: int, loading: int) -> NoReturn:
        """Become the instance's orchestrator, in a fork."""
        try:
            os.setsid()
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            if os.getppid() != self._own_pid:
                os._exit(1)  # the host died before the death signal was set
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            for target in (1, 2):
                os.dup2(output, target)
            # What belongs to this host and to other instances.
            os.closerange(3, loading)
            os.closerange(loading + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            os.environ.update(order.environment)
            serve.main([str(order.bundle)], shared=self._shared, loaded=lambda: os.close(loading))
        except SystemExit as error:
            print(error.code, file=sys.stderr)
        except BaseException:  # noqa: BLE001 - a fork must not return into its parent's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _on_loaded(self, hosted: _Hosted) -> None:
        self._unwatch(hosted.loading)
        hosted.loading = -1

    def _copy_output(self, hosted: _Hosted) -> bool:
        """Copy a piece of output to the log; return whether there was one."""
        try:
            data = os.read(hosted.output, 65536)
        except BlockingIOError:
            return False
        if data:
            hosted.log.write(data)
            # Most instances are idle.
            hosted.log.close()
        else:
            # The process goes on without output.
            self._unwatch(hosted.output)
            hosted.output = -1
        return bool(data)

    # ends -------------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        by_pid = {each.pid: each for each in self._hosted.values() if each.pid}
        ended: list[tuple[_Hosted, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in by_pid:
                ended.append((by_pid[pid], os.waitstatus_to_exitcode(status)))
                by_pid[pid].pid = 0
        if ended:
            self._kill_adopted()
        for hosted, code in ended:
            self._on_exit(hosted, code)

    def _kill_adopted(self) -> None:
        """Kill what ended instances have left behind, and wait for its end: the next process needs the port."""
        while adopted := self._children() - {each.pid for each in self._hosted.values()}:
            for pid in adopted:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in adopted:
                os.waitpid(pid, 0)

    def _children(self) -> set[int]:
        found = set()
        for name in os.listdir("/proc"):  # noqa: PTH208 - faster
            # It may have ended since it was listed.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if name.isdigit():
                    # The program's name is in parentheses and may itself contain parentheses.
                    state, parent = Path(f"/proc/{name}/stat").read_bytes().rpartition(b") ")[2].split()[:2]
                    if int(parent) == self._own_pid and state not in b"ZX":
                        found.add(int(name))
        return found

    def _on_exit(self, hosted: _Hosted, code: int) -> None:
        while hosted.output >= 0 and self._copy_output(hosted):
            pass
        if hosted.output >= 0:
            self._unwatch(hosted.output)
            hosted.output = -1
        if hosted.loading >= 0:
            self._on_loaded(hosted)
        now = time.monotonic()
        stopped, hosted.end_at = hosted.end_at != _NEVER, _NEVER
        if stopped or hosted.wanted != hosted.present:
            return
        message = f"exited with status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        if now - hosted.started > _WINDOW:
            hosted.restarts = 0
        self._restart(hosted, message, now)

    def _restart(self, hosted: _Hosted, message: str, now: float) -> None:
        if hosted.restarts >= _RESTARTS:
            message = f"{message}; restarted {hosted.restarts} times, which is the limit"
            self._directory.report(hosted.instance, "failed", hosted.digest, message, restarts=hosted.restarts)
            return
        hosted.restarts += 1
        pause = _BACKOFF.delay(hosted.restarts)
        hosted.due = now + pause
        message = f"{message}; restart {hosted.restarts} of {_RESTARTS} in {pause:g} s"
        self._directory.report(hosted.instance, "restarting", hosted.digest, message, restarts=hosted.restarts)

    # descriptors ------------------------------------------------------------------------------------------------------

    def _watch(self, descriptor: int, ready: Callable[[], object]) -> None:
        self._ready[descriptor] = ready
        self._poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        del self._ready[descriptor]
        self._poll.unregister(descriptor)
        os.close(descriptor)
