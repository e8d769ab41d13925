"""Starts, finds, adopts and ends processes that outlive whoever asked for them.

Everything about a process is in its directory, `<root>/instances/<instance>/<process>/`:

| file | by | what |
| --- | --- | --- |
| `lock` | launcher, then supervisor | held while anything of the process may run; the one truth about running |
| `index.json` | launcher | labels, revision, notes; written before the process starts, removed when all else is gone |
| `status.json` | supervisor | what it sees |
| `stop` | launcher | that the process was asked to end, and since when |
| `log/` | supervisor | its output |
| `work/` | launcher, process | its files; all that it sees of this |

The launcher takes the lock before it forks, and the supervisor inherits it. So a caller that is killed at any moment leaves
either a free lock and nothing running, or a held lock and a process that the next caller adopts. Nothing here waits longer
than the caller allows: `stop` and `remove` say False while the process is still ending, and are called again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import cloud_controller
from archelon_core.private_files import private_directory

from ...core.labels import Labels
from ..health import Spawn
from . import locks, processes
from .logs import LogChunk, read_log
from .orders import LaunchError, Name, Order, Program, Running, State
from .port_allocator import PortAllocator, PortError
from .sandbox import Sandbox
from .stack_index import (
    inside,
    listing,
    mark_stopped,
    message_of,
    read_json,
    remove_tree,
    root_id,
    state_of,
    write_file,
    write_files,
    write_json,
)

#: Seconds that a supervisor may take to say its first word.
_READY = 10.0
#: Seconds over a process' grace after which its supervisor is taken for dead.
_OVERDUE = 5.0
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from cloud_controller.platforms.local.supervisor import main; main(sys.argv[2:])"
)


def no_checkpoint(_name: str) -> None:
    """Called at every point where being killed could matter; tests put something here."""


class Launcher:
    """The processes of one root directory. Threads and other processes may use the same root at once.

    Args:
        root: made if missing, readable by its owner only.
        ports: numbers that may be given to processes. refused_ports: those of them, or beside them, that never are.
        sandbox: what each process is started in; without it processes see what we do.
        shared: whether processes of several tenants may run without a sandbox at the same time.
        log_segment: bytes after which a log goes on in a new segment; `log_segments` are kept.
        clock: seconds since the epoch.
        checkpoint: called with a name at every point where being killed could matter.
    """

    def __init__(
        self,
        root: Path,
        *,
        ports: range = range(20000, 30000),
        refused_ports: Collection[int] = (),
        sandbox: Sandbox | None = None,
        shared: bool = False,
        log_segment: int = 1 << 20,
        log_segments: int = 4,
        clock: Callable[[], float] = time.time,
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        self._instances = root / "instances"
        private_directory(self._instances)
        root.chmod(0o700)
        self._id = root_id(root)
        first = int.from_bytes(hashlib.sha256(self._id.encode()).digest()[:4])
        self._ports = PortAllocator(root, numbers=ports, first=first, refused=refused_ports)
        self._tenants = root / "tenants.lock"
        self._sandbox = sandbox
        self._shared = shared
        self._log_segment = log_segment
        self._log_segments = log_segments
        self._clock = clock
        self._checkpoint = checkpoint

    def start(self, order: Order, program: Callable[[Mapping[str, int]], Program], *, wait: float = 2.0) -> Running:
        """Make the process run as ordered; what already does is adopted.

        A process of another revision is ended first, and keeps its ports and its directory. The answer shows `STOPPING` where
        that takes longer than `wait` seconds; ask again.

        Raises:
            LaunchError: the order cannot be carried out: a port is taken, a path leaves the directory, the directory is full.
        """
        until = time.monotonic() + max(wait, _READY)
        while True:
            with self._lock(order.name, create=True) as lock:
                if lock is not None:
                    try:
                        return self._start(order, program, lock)
                    except OSError as problem:
                        raise LaunchError(f"{order.name} cannot be started: {problem.strerror or problem}") from problem
            found = self.observe(order.name)
            if found is None:
                continue  # it was removed between the two looks
            young = found.pid is None and not found.restarts and found.state is not State.STOPPING
            if young and time.monotonic() < until:
                # Another starts it at this moment, and which revision its book does not say for sure yet.
                self._await_supervisor(self._directory(order.name), 0.02)
                continue
            # What was started before there was a sandbox is started again in it.
            same = found.revision == order.revision and found.isolated >= (self._sandbox is not None)
            if same and found.state is not State.STOPPING:
                return found
            if not self.stop(order.name, wait=wait):
                return self.observe(order.name) or Running(order.name, State.STOPPING)

    def stop(self, name: Name, *, wait: float = 2.0) -> bool:
        """End the process and everything that came of it; directory and ports stay. True when nothing of it runs."""
        with self._ended(name, wait=wait) as lock:
            return lock is not None

    def remove(self, name: Name, *, wait: float = 2.0) -> bool:
        """End the process and remove everything of it. True when nothing is left.

        Raises:
            LaunchError: a process that hides from us still listens on one of its ports.
        """
        directory = self._directory(name)
        if not directory.exists():
            return self._forget(name)
        with self._ended(name, wait=wait) as lock:
            if lock is None:
                return False
            # Its files first: on a full disk they are the room that the book of ports needs to be written anew.
            try:
                for tree in ("work", "log"):
                    remove_tree(directory / tree)
                self._checkpoint("files removed")
                self._ports.release(str(name))
            except (PortError, OSError) as problem:
                raise LaunchError(f"{name} cannot be removed: {problem}") from problem
            self._checkpoint("ports released")
            # The book goes after all that it tells of, the lock after the book: a removal cut short is found and repeated.
            for file in (
                "status.json.new",
                "status.json",
                "stop",
                "supervisor.err",
                "book.json.new",
                "book.json",
                "lock",
            ):
                (directory / file).unlink(missing_ok=True)
                self._checkpoint(f"{file} removed")
            try:
                directory.rmdir()
            except OSError as problem:
                raise LaunchError(f"the directory of {name} cannot be removed: {problem.strerror}") from problem
            with contextlib.suppress(OSError):  # others of the instance are still there
                directory.parent.rmdir()
        return True

    def observe(self, name: Name) -> Running | None:
        """The process as it is now, or None where there is nothing of it. Takes no lock."""
        directory = self._directory(name)
        if not directory.exists():
            return None
        held = _is_held(directory / "lock")
        index = read_json(directory / "book.json")
        status = read_json(directory / "status.json")
        state = state_of(status, held=held, stopping=(directory / "stop").exists())
        if state is State.LOST and _is_held(directory / "lock"):
            # Another started it between our look at the lock and our look at its word.
            state = state_of(status, held=True, stopping=False)
        labels = index.get("labels")
        return Running(
            name=name,
            state=state,
            revision=index.get("revision", ""),
            labels=Labels(**labels) if labels else None,
            ports=self._ports.of(str(name)),
            notes=index.get("notes", {}),
            pid=status.get("pid") if state is State.RUNNING else None,
            since=status.get("since", 0.0),
            restarts=status.get("restarts", 0),
            exit_status=status.get("exit_status"),
            message=message_of(state, status),
            isolated=index.get("isolated", False),
        )

    def find(self, *, instance: str | None = None, **labels: str | int) -> list[Running]:
        """Every process with these labels (`tenant`, `service`, `generation`), in order of their names.

        A removal that was cut short may have taken the labels already: such a process is found by its instance alone.
        """
        found = []
        for name in self.names(instance):
            process = self.observe(name)
            if process is None:
                continue
            if all(
                process.labels is not None and getattr(process.labels, key) == value for key, value in labels.items()
            ):
                found.append(process)
        return found

    def remains(self, instance: str) -> tuple[str, ...]:
        """What the machine still has of an instance, in words: directories, ports, processes. Empty: verified absent."""
        left = [f"directory of {name}" for name in self.names(instance)]
        left += [f"port {number} of {entry[0]}" for number, entry in self._ports.allocated(f"{instance}/").items()]
        table = processes.table()
        for variable, word in ((processes.VARIABLE, "process"), (processes.SUPERVISOR_VARIABLE, "supervisor")):
            prefix = f"{self._id}:{instance}/"
            for process, marker in processes.marked(variable, prefix, table.values()):
                left.append(f"{word} {process.pid} of {marker.removeprefix(f'{self._id}:')}")
        return tuple(left)

    def forgotten(self, instance: str) -> list[Name]:
        """What runs, or has a port, of an instance, and has no directory any more: somebody removed it."""
        owners = {entry[0] for entry in self._ports.allocated(f"{instance}/").values()}
        table = processes.table()
        for variable in (processes.VARIABLE, processes.SUPERVISOR_VARIABLE):
            for _process, marker in processes.marked(variable, f"{self._id}:{instance}/", table.values()):
                owners.add(marker.removeprefix(f"{self._id}:"))
        names = [Name(*owner.split("/", 1)) for owner in sorted(owners)]
        return [name for name in names if not self._directory(name).exists()]

    def _forget(self, name: Name) -> bool:
        """End and give back what there is of a process without a directory."""
        marker = f"{self._id}:{name}"
        for process, whole in processes.marked(processes.SUPERVISOR_VARIABLE, marker, processes.table().values()):
            if whole == marker:
                processes.send(process.pid, process.start, signal.SIGKILL)
        self._end_strays(name)
        try:
            self._ports.release(str(name))
        except PortError as problem:
            raise LaunchError(str(problem)) from problem
        return True

    def read_log(self, name: Name, since: int = 0, *, limit: int = 65536) -> LogChunk:
        """Output from position `since` on, at most `limit` bytes; follow it by asking again with the answer's `next`."""
        return read_log(self._directory(name) / "log", since, limit)

    def write(self, name: Name, path: str, text: str) -> None:
        """Write a file into a process' directory, as its own. Raises LaunchError, OSError."""
        labels = read_json(self._directory(name) / "book.json").get("labels", {})
        write_file(self._directory(name) / "work", path, text, owner=self._user(labels.get("tenant", "")))

    @contextlib.contextmanager
    def beside(self, name: Name, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Spawn]:
        """How to run another program, such as a check's command, in a process' directory, beside it and with its rights.

        It is among what ends with the process, and sees what that sees.

        Raises:
            LaunchError: the process does not run.
        """
        directory = self._directory(name)
        marked = self.marker(name)
        index = read_json(directory / "book.json")
        if not index.get("isolated"):
            yield Spawn(tuple(command), {**environment, **marked}, directory / "work")
            return
        if self._sandbox is None:
            raise LaunchError(f"{name} runs in a sandbox, which this machine cannot enter any more")
        status = read_json(directory / "status.json")
        tenant, readable = index["labels"]["tenant"], index.get("readable", ())
        wrapped = self._sandbox.wrapped(
            command, {**environment, **marked}, tenant, directory / "work", readable=readable
        )
        with (
            self._sandbox.joined(status.get("pid", 0), status.get("start", 0)) as (namespaces, joined),
            self._sandbox.carried(wrapped, namespaces) as (line, carried),
        ):
            yield Spawn(tuple(line), marked, Path("/"), (*joined, *carried))

    def marker(self, name: Name) -> dict[str, str]:
        """The variable by which what belongs to a process is found."""
        return {processes.VARIABLE: f"{self._id}:{name}"}

    def work(self, name: Name) -> Path:
        """The directory that a process' files are in."""
        return self._directory(name) / "work"

    def _user(self, tenant: str) -> int | None:
        return None if self._sandbox is None else self._sandbox.user(tenant)

    def _start(self, order: Order, program: Callable[[Mapping[str, int]], Program], lock: int) -> Running:
        directory = self._directory(order.name)
        old = read_json(directory / "book.json")
        self._checkpoint("lock taken")
        self._end_strays(order.name)
        for stale in ("status.json", "stop"):
            (directory / stale).unlink(missing_ok=True)
        index = {
            "revision": order.revision,
            "labels": dataclasses.asdict(order.labels),
            "notes": dict(order.notes),
            "files": old.get("files", []),
            "grace": order.grace,
            "isolated": self._sandbox is not None,
        }
        self._write_index(order, index)
        self._checkpoint("book written")
        try:
            numbers, holds = self._ports.reserve(str(order.name), order.ports)
        except PortError as problem:
            raise LaunchError(str(problem)) from problem
        try:
            self._checkpoint("ports reserved")
            complete = program(numbers)
            paths = [str(inside(path)) for path in complete.files]
            # Both sets are booked before either is touched, so that no revision's file is ever forgotten.
            files = sorted({*index["files"], *paths})
            write_json(directory / "book.json", {**index, "files": files, "readable": complete.readable})
            owner = self._user(order.labels.tenant)
            write_files(directory / "work", order, complete, forget=set(index["files"]) - set(paths), owner=owner)
            self._checkpoint("files written")
            self._spawn(order, complete, [lock, *(hold.fileno() for hold in holds)])
        finally:
            for hold in holds:
                hold.close()
        found = self.observe(order.name)
        assert found is not None, "we hold its lock"
        return found

    def _write_index(self, order: Order, index: Mapping[str, object]) -> None:
        """Book it; without a sandbox only where nothing of another tenant runs. Raises LaunchError."""
        path = self._directory(order.name) / "book.json"
        if self._sandbox is not None or self._shared:
            write_json(path, index)
            return
        # Whoever else asks meanwhile sees this process' lock held, and its book.
        with locks.open_and_take(self._tenants):
            if self.refusal(order.labels.tenant):
                raise LaunchError(self.refusal(order.labels.tenant))
            write_json(path, index)

    def refusal(self, tenant: str) -> str:
        """Why nothing of a tenant can be started now, in words; empty where it can."""
        if self._sandbox is not None or self._shared:
            return ""
        for name in self.names():
            labels = read_json(self._directory(name) / "book.json").get("labels", {})
            if labels.get("tenant", tenant) != tenant and _is_held(self._directory(name) / "lock"):
                return (
                    "another tenant's processes run here, and this machine cannot keep tenants apart; install bubblewrap "
                    "(`archelon dev` and /readyz say what is missing), or allow it: `archelon dev --shared`, or `shared` in "
                    "the region's settings"
                )
        return ""

    def _sandboxed(self, order: Order, program: Program, environment: Mapping[str, str]) -> dict[str, object] | None:
        if self._sandbox is None:
            return None
        wrapped = self._sandbox.wrapped(
            program.command,
            environment,
            order.labels.tenant,
            self.work(order.name),
            str(inside(order.directory)),
            readable=program.readable,
        )
        return {
            "program": self._sandbox.bwrap,
            "command": wrapped.command,
            "options": [*self._sandbox.new(), *wrapped.options],
            "environment": wrapped.environment,
        }

    def _spawn(self, order: Order, program: Program, kept: list[int]) -> None:
        marker = f"{self._id}:{order.name}"
        environment = {**program.environment, processes.VARIABLE: marker}
        restart = order.restart
        limits = {name: value for name, value in dataclasses.asdict(order.limits).items() if value is not None}
        message = {
            "command": list(program.command),
            "environment": environment,
            "sandbox": self._sandboxed(order, program, environment),
            "marker": marker,
            "directory": str(inside(order.directory)),
            "limits": limits,
            "restart": restart.policy,
            "restart_limit": restart.limit,
            "backoff": restart.backoff,
            "backoff_limit": restart.backoff_limit,
            "grace": order.grace,
            "log_segment": self._log_segment,
            "log_segments": self._log_segments,
        }
        package = str(Path(cloud_controller.__file__).parent.parent)
        # Only where a supervisor itself fails does anything come here: a traceback, which shows code and no values.
        errors = os.open(
            self._directory(order.name) / "supervisor.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        ready, tell = os.pipe()
        try:
            arguments = [str(self._directory(order.name)), str(tell), *map(str, kept)]
            child = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, package, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env={processes.SUPERVISOR_VARIABLE: marker},
                pass_fds=[tell, *kept],
                start_new_session=True,
            )
        except OSError:
            os.close(ready)
            raise
        finally:
            os.close(tell)
            os.close(errors)
        try:
            self._checkpoint("supervisor forked")
            # A supervisor that dies at once closes its end; the silence below says so.
            with contextlib.suppress(BrokenPipeError):
                child.communicate(json.dumps(message).encode(), timeout=_READY)
            self._checkpoint("order sent")
            if not _readable(ready, _READY) or not os.read(ready, 1):
                raise LaunchError(f"the supervisor of {order.name} did not start; see supervisor.err in its directory")
        except subprocess.TimeoutExpired as problem:
            child.kill()
            child.wait()
            raise LaunchError(f"the supervisor of {order.name} did not start within {_READY:g} s") from problem
        finally:
            os.close(ready)

    @contextlib.contextmanager
    def _ended(self, name: Name, *, wait: float) -> Iterator[int | None]:
        """The lock once nothing of the process runs, or None where that takes longer than `wait` seconds."""
        until = time.monotonic() + wait
        directory = self._directory(name)
        while True:
            with self._lock(name, create=directory.exists()) as lock:
                if lock is not None:
                    self._end_strays(name)
                    self._checkpoint("ended")
                    if lock >= 0:
                        mark_stopped(directory, self._clock())
                    yield lock
                    return
            self._ask_to_stop(name)
            self._checkpoint("asked to end")
            if not self._await_supervisor(directory, until - time.monotonic()):
                yield None
                return

    def _ask_to_stop(self, name: Name) -> None:
        directory = self._directory(name)
        status = read_json(directory / "status.json")
        supervisor = (status.get("supervisor", 0), status.get("supervisor_start", 0))
        if not processes.alive(*supervisor):
            return  # another launcher holds the lock, for moments, and no word of a former supervisor is meant for it
        asked = directory / "stop"
        try:
            asked.touch(exist_ok=False)
        except FileExistsError:
            grace = read_json(directory / "book.json").get("grace", 0.0)
            if self._clock() - asked.stat().st_mtime > grace + _OVERDUE:
                # Its children get SIGKILL from the kernel; whoever takes the lock ends the others.
                processes.send(*supervisor, signal.SIGKILL)
        except FileNotFoundError:
            return  # removed by another
        except OSError as problem:
            # Without room for the file nobody knows since when; that it was asked is what matters.
            if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        processes.send(*supervisor, signal.SIGTERM)

    def _await_supervisor(self, directory: Path, wait: float) -> bool:
        """Wait until the lock may be free; False when `wait` seconds are over."""
        if wait <= 0:
            return False
        status = read_json(directory / "status.json")
        try:
            handle = os.pidfd_open(status.get("supervisor", 0))
        except (OSError, ValueError):
            # Another launcher holds the lock, for moments; the kernel has no event for that.
            time.sleep(min(wait, 0.02))
            return True
        try:
            if processes.alive(status["supervisor"], status["supervisor_start"]):
                return _readable(handle, wait)
            time.sleep(min(wait, 0.02))
            return True
        finally:
            os.close(handle)

    def _end_strays(self, name: Name) -> None:
        """Kill what a killed supervisor left; called with the lock held, so nothing that is meant to run can be among it."""
        marker = f"{self._id}:{name}"
        while True:
            found = processes.marked(processes.VARIABLE, marker, processes.table().values())
            strays = [process for process, whole in found if whole == marker]
            if not strays:
                return
            for process in strays:
                processes.send(process.pid, process.start, signal.SIGKILL)
            time.sleep(0.005)  # the kernel has no event for the end of other people's children

    @contextlib.contextmanager
    def _lock(self, name: Name, *, create: bool) -> Iterator[int | None]:
        """The descriptor of the process' lock, or None where another has it; -1 where there is nothing to lock."""
        path = self._directory(name) / "lock"
        while True:
            if create:
                private_directory(path.parent)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
            except FileNotFoundError:
                if create:
                    continue  # a removal took the directory between the two calls
                yield -1
                return
            try:
                if not locks.try_take(descriptor):
                    yield None
                    return
                if not _is_same(descriptor, path):
                    continue  # removed, perhaps made again, while we opened it
                yield descriptor
                return
            finally:
                os.close(descriptor)

    def names(self, instance: str | None = None) -> list[Name]:
        """What there is something of, of one instance or of all."""
        if instance is not None:
            return [Name(instance, entry) for entry in listing(self._instances / instance)]
        names = []
        for owner in listing(self._instances):
            names += [Name(owner, entry) for entry in listing(self._instances / owner)]
        return names

    def _directory(self, name: Name) -> Path:
        return self._instances / name.instance / name.process


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return locks.held(descriptor)
    finally:
        os.close(descriptor)
