"""Starts, finds, adopts and stops processes that outlive their callers.

Everything about a process is in its directory, `<root>/instances/<instance>/<process>/`:

| file | by | content |
| --- | --- | --- |
| `lock` | launcher, then supervisor | held while any of it may run, the authority on that; its mode has a stop request |
| `book.json` | launcher | the index: labels, revision, notes; written before the start, removed last but the lock |
| `status.json` | supervisor | the observed state |
| `log/` | supervisor | the output |
| `work/` | launcher, process | the process' files, all that it sees of its directory |

What runs in a host (`hosts`) has only a lock, which is held briefly, an index that names the host, and the earlier log.

The launcher takes the lock, and passes it to the supervisor with the order. A caller that is killed at any moment thus leaves
either a free lock and nothing running, or a held lock and a process that the next caller adopts. No call waits longer than
requested: `stop` and `remove` return False while the process is still stopping, and are called again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from archelon_core.fork_server import ForkError
from archelon_core.private_files import private_directory

from ...core.labels import Labels
from ..health import Spawn
from . import inotify, locks, processes
from .logs import LogChunk, read_log, read_tail
from .orders import HOSTS, LaunchError, Name, ProcessOrder, ProcessProgram, ProcessState, Running
from .port_allocator import PortAllocator, PortError, is_taken
from .sandbox import Sandbox
from .stack_index import (
    FINAL_STATES,
    INDEX_FILE,
    inside,
    listing,
    mark_stopped,
    message_of,
    read_json,
    remove_tree,
    request_stop,
    root_id,
    state_of,
    write_file,
    write_files,
    write_json,
)
from .supervisor import STOP_REQUESTED
from .supervisors import Supervisors

#: Seconds for which another launcher may be starting a process.
_STARTING = 10.0
#: Seconds beyond a process' grace after which it is killed; and twice that, its supervisor if nothing of it is left.
_OVERDUE = 5.0
#: Seconds after which a request to stop is repeated.
_REPEATED = 1.0


def no_checkpoint(_name: str) -> None:
    """Do nothing; crash tests replace this hook."""


class Launcher:
    """The processes of one root directory. Several threads and processes may use the same root.

    Args:
        root: created if missing, accessible to its owner only.
        ports: available to processes. refused_ports: never assigned, not even on request.
        sandbox: isolates each process; without it processes see the same files as we do.
        shared: whether processes of several tenants may run at once without a sandbox.
        log_segment: size of a log segment in bytes; the last `log_segments` are kept.
        clock: seconds since the epoch.
        checkpoint: called with a name at each point of interest to crash tests.
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
        #: The directory of all instances, with a directory of each process of each.
        self.instances = root / "instances"
        private_directory(self.instances)
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
        self._supervisors = Supervisors(root, checkpoint)
        #: What we have asked to stop: the time of the request in the lock, and since when we wait, in monotonic seconds.
        self._asked: dict[Name, tuple[int, float]] = {}

    def start(
        self, order: ProcessOrder, program: Callable[[Mapping[str, int]], ProcessProgram], *, wait: float = 2.0
    ) -> Running:
        """Start the process as ordered, or adopt it if it runs.

        A process of another revision is stopped first, and keeps its ports and directory. Returns `STOPPING` if that takes
        longer than `wait` seconds; call again.

        Raises:
            LaunchError: the order cannot be carried out: a port is taken, a path leaves the directory, the disk is full.
        """
        until = time.monotonic() + max(wait, _STARTING)
        repeated = False
        while True:
            with self._lock(order.name, create=True) as lock:
                if lock is not None:
                    try:
                        return self._start(order, program, lock)
                    except OSError as problem:
                        if isinstance(problem, ForkError) and problem.errno == errno.EPIPE and not repeated:
                            # If it was forked after all, it keeps the lock.
                            repeated = True
                            continue
                        raise LaunchError(f"{order.name} cannot be started: {problem.strerror or problem}") from problem
            found = self.observe(order.name)
            if found is None:
                continue  # removed in the meantime
            young = found.pid is None and not found.restarts and found.state is not ProcessState.STOPPING
            if young and time.monotonic() < until:
                # Another launcher is starting it; its index may not have the final revision yet.
                self._await_release(self._directory(order.name), 0.02)
                continue
            # A process started without the sandbox is restarted in it.
            same = found.revision == order.revision and found.isolated >= (self._sandbox is not None)
            if same and found.state is not ProcessState.STOPPING:
                return found
            if not self.stop(order.name, wait=wait):
                return self.observe(order.name) or Running(order.name, ProcessState.STOPPING)

    def stop(self, name: Name, *, wait: float = 2.0) -> bool:
        """Stop the process and its descendants, but keep directory and ports. True once nothing of it runs."""
        with self._stopped(name, wait=wait) as lock:
            return lock is not None

    def remove(self, name: Name, *, wait: float = 2.0) -> bool:
        """Stop the process and remove everything of it. True once nothing is left.

        Raises:
            LaunchError: an unknown process still listens on one of its ports, or a file cannot be removed.
        """
        directory = self._directory(name)
        if not directory.exists():
            return self._remove_orphan(name)
        with self._stopped(name, wait=wait) as lock:
            if lock is None:
                return False
            # Files first: on a full disk, this frees the space to rewrite the file of ports.
            try:
                for tree in ("work", "log", "members"):
                    remove_tree(directory / tree)
                self._checkpoint("files removed")
                self._ports.release(str(name))
            except (PortError, OSError) as problem:
                raise LaunchError(f"{name} cannot be removed: {problem}") from problem
            self._checkpoint("ports released")
            # The index goes last but the lock, so that an interrupted removal is found and repeated.
            for file in ("status.json.new", "status.json", f"{INDEX_FILE}.new", INDEX_FILE, "lock"):
                (directory / file).unlink(missing_ok=True)
                self._checkpoint(f"{file} removed")
            try:
                directory.rmdir()
            except OSError as problem:
                raise LaunchError(f"the directory of {name} cannot be removed: {problem.strerror}") from problem
            with contextlib.suppress(OSError):  # the instance has other processes
                directory.parent.rmdir()
        return True

    def observe(self, name: Name) -> Running | None:
        """Return the process' current state, or None if it does not exist. Takes no lock."""
        directory = self._directory(name)
        index = read_json(directory / INDEX_FILE)
        if index.get("host"):
            return self._observe_hosted(name, index)
        if not directory.exists():
            return None
        state, status = _state_in(directory)
        labels = index.get("labels")
        return Running(
            name=name,
            state=state,
            revision=index.get("revision", ""),
            labels=Labels(**labels) if labels else None,
            ports=index["ports"] if "ports" in index else self._ports.of(str(name)),
            notes=index.get("notes", {}),
            pid=status.get("pid") if state is ProcessState.RUNNING else None,
            since=status.get("since", 0.0),
            restarts=status.get("restarts", 0),
            exit_status=status.get("exit_status"),
            message=message_of(state, status),
            isolated=index.get("isolated", False),
        )

    def state(self, name: Name) -> ProcessState | None:
        """Return the state that `observe` returns, at less cost; None also for what runs in a host."""
        directory = self._directory(name)
        return _state_in(directory)[0] if directory.exists() and not self.index(name).get("host") else None

    def _observe_hosted(self, name: Name, index: Mapping[str, Any]) -> Running:
        host = self.observe(Name(HOSTS, index["host"]))
        return Running(
            name=name,
            state=ProcessState.RESERVED if host is None else host.state,
            revision=index.get("revision", ""),
            labels=Labels(**index["labels"]) if index.get("labels") else None,
            ports=self._ports.of(str(name)) or (host.ports if host else {}),
            pid=host.pid if host else None,
            since=index.get("since", 0.0),
            message=host.message if host else "",
            isolated=host.isolated if host else False,
            host=index["host"],
        )

    def enter(
        self,
        name: Name,
        labels: Labels,
        ports: Mapping[str, int],
        order: Callable[[Mapping[str, int]], str],
        **notes: object,
    ) -> str | None:
        """Record that a host serves a name, with ports of its own; called under the lock of the host.

        Args:
            ports: to reserve; those that it has are kept.
            order: returns what the host is given, once the ports are known; its hash becomes the revision.
            notes: `host`, the process of `HOSTS`, and more for the index.

        Returns:
            The order; None if the name is in use by another caller, or a process of its own still runs.

        Raises:
            LaunchError: a port cannot be had, or processes of several tenants cannot run here.
        """
        with self._lock(name, create=True) as lock:
            if lock is None:
                return None
            index = {"labels": dataclasses.asdict(labels), "since": self._clock(), "revision": "", **notes}
            self._write_index(name, labels.tenant, index)
            self._checkpoint("index written")
            if ports:
                try:
                    for hold in self._ports.reserve(str(name), ports)[1]:
                        hold.close()
                except PortError as problem:
                    raise LaunchError(str(problem)) from problem
                self._checkpoint("ports reserved")
            text = order(self.ports(name))
            self.note(name, {**index, "revision": hashlib.sha256(text.encode()).hexdigest()})
            return text

    def ports(self, name: Name) -> Mapping[str, int]:
        """Return the ports of a process."""
        return self._ports.of(str(name))

    def let_enter(self, directory: Path, tenant: str) -> None:
        """Let the user of a tenant's processes open what it knows in a directory of ours, but not list it. Raises OSError."""
        user = self._user(tenant)
        if user is not None and directory.stat().st_gid != user:
            directory.chmod(0o710)
            os.chown(directory, -1, user)

    def listens(self, name: Name) -> bool:
        """Whether a process listens on one of the ports of a name."""
        return any(is_taken(number) for number in self.ports(name).values())

    def index(self, name: Name) -> dict[str, Any]:
        """Return the index of a process; empty if there is none."""
        return read_json(self._directory(name) / INDEX_FILE)

    def note(self, name: Name, index: Mapping[str, object]) -> None:
        """Replace the index of what runs in a host; called under the lock of the host. Raises OSError."""
        write_json(self._directory(name) / INDEX_FILE, index)

    def find(self, *, instance: str | None = None, **labels: str | int) -> list[Running]:
        """Return the processes with these labels (`tenant`, `service`, `generation`), sorted by name.

        An interrupted removal may have deleted the labels; such a process is found by its instance only.
        """
        found = [process for name in self.names(instance) if (process := self.observe(name)) is not None]
        return [
            each for each in found if all(getattr(each.labels, key, None) == value for key, value in labels.items())
        ]

    def remains(self, instance: str) -> tuple[str, ...]:
        """List an instance's remaining directories, ports and processes; empty if verified absent."""
        left = [f"directory of {name}" for name in self.names(instance)]
        left += [f"port {number} of {entry[0]}" for number, entry in self._ports.allocated(f"{instance}/").items()]
        left += sorted(
            f"process {process.pid} of {marker.removeprefix(f'{self._id}:')}"
            for process, marker in processes.marked(f"{self._id}:{instance}/")
        )
        return tuple(left)

    def orphans(self, instance: str) -> list[Name]:
        """Return an instance's names with a process or port but without a directory, which was removed by others."""
        owners = {entry[0] for entry in self._ports.allocated(f"{instance}/").values()}
        for _process, marker in processes.marked(f"{self._id}:{instance}/"):
            owners.add(marker.removeprefix(f"{self._id}:"))
        names = [Name(*owner.split("/", 1)) for owner in sorted(owners)]
        return [name for name in names if not self._directory(name).exists()]

    def _remove_orphan(self, name: Name) -> bool:
        """Kill a process without a directory, which its supervisor then does not restart, and release its ports."""
        self._kill_strays(name)
        try:
            self._ports.release(str(name))
        except PortError as problem:
            raise LaunchError(str(problem)) from problem
        return True

    def read_log(self, name: Name, since: int = 0, *, limit: int = 65536) -> LogChunk:
        """Return output from position `since` on, at most `limit` bytes; continue from the chunk's `next`."""
        return read_log(self._directory(name) / "log", since, limit)

    def read_tail(self, name: Name, limit: int) -> bytes:
        """Return the last bytes of the output, at most `limit`."""
        return read_tail(self._directory(name) / "log", limit).data

    def write(self, name: Name, path: str, text: str, *, replace: bool = False) -> None:
        """Write a file to a process' directory, owned by its user; see `write_file`. Raises LaunchError, OSError."""
        labels = self.index(name).get("labels", {})
        owner = self._user(labels.get("tenant", ""))
        write_file(self._directory(name) / "work", path, text, owner=owner, replace=replace)

    @contextlib.contextmanager
    def attached(self, name: Name, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Spawn]:
        """Return how to run a further command, such as a health check, in a process' sandbox and directory.

        The command has the process' permissions and ends with it.

        Raises:
            LaunchError: the process does not run.
        """
        directory = self._directory(name)
        marker = self.marker(name)
        index = read_json(directory / INDEX_FILE)
        if not index:
            raise LaunchError(f"{name} is being removed")
        if not index.get("isolated"):
            yield Spawn(tuple(command), {**environment, **marker}, directory / "work")
            return
        if self._sandbox is None:
            raise LaunchError(f"{name} runs in a sandbox, which this machine can no longer enter")
        status = read_json(directory / "status.json")
        tenant, readable = index["labels"]["tenant"], index.get("readable", ())
        wrapped = self._sandbox.wrap(command, {**environment, **marker}, tenant, directory / "work", readable=readable)
        with (
            self._sandbox.join(status.get("pid", 0), status.get("start", 0)) as (namespaces, joined),
            self._sandbox.bwrap_command(wrapped, namespaces) as (line, inherited),
        ):
            yield Spawn(tuple(line), marker, Path("/"), (*joined, *inherited))

    def marker(self, name: Name) -> dict[str, str]:
        """Return the environment variable that identifies a process' descendants."""
        return {processes.VARIABLE: f"{self._id}:{name}"}

    def work(self, name: Name) -> Path:
        """Return the directory of a process' files."""
        return self._directory(name) / "work"

    def _user(self, tenant: str) -> int | None:
        return None if self._sandbox is None else self._sandbox.user(tenant)

    def _start(self, order: ProcessOrder, program: Callable[[Mapping[str, int]], ProcessProgram], lock: int) -> Running:
        directory = self._directory(order.name)
        old = read_json(directory / INDEX_FILE)
        self._checkpoint("lock taken")
        if self._may_have_left(directory):
            self._kill_strays(order.name)
        (directory / "status.json").unlink(missing_ok=True)
        request_stop(directory, requested=False)
        index = {
            "revision": order.revision,
            "labels": dataclasses.asdict(order.labels),
            "notes": dict(order.notes),
            "files": old.get("files", []),
            "grace": order.grace,
            "isolated": self._sandbox is not None,
        }
        self._write_index(order.name, order.labels.tenant, index)
        self._checkpoint("index written")
        try:
            numbers, reservations = self._ports.reserve(str(order.name), order.ports)
        except PortError as problem:
            raise LaunchError(str(problem)) from problem
        try:
            self._checkpoint("ports reserved")
            complete = program(numbers)
            paths = [str(inside(path)) for path in complete.files]
            # Record both sets of files before any change, so that no revision's file is left behind.
            files = sorted({*index["files"], *paths})
            complete_index = {**index, "files": files, "readable": complete.readable, "ports": numbers}
            write_json(directory / INDEX_FILE, complete_index)
            owner = self._user(order.labels.tenant)
            write_files(directory / "work", order, complete, obsolete=set(index["files"]) - set(paths), owner=owner)
            self._checkpoint("files written")
            self._spawn(order, complete, [lock, *(hold.fileno() for hold in reservations)])
        finally:
            for hold in reservations:
                hold.close()
        found = self.observe(order.name)
        assert found is not None, "its lock is held"
        return found

    def _write_index(self, name: Name, tenant: str, index: Mapping[str, object]) -> None:
        """Write the index; without a sandbox, only if no other tenant's process runs. Raises LaunchError."""
        path = self._directory(name) / INDEX_FILE
        if self._sandbox is not None or self._shared:
            write_json(path, index)
            return
        # Concurrent launchers then see this process' index and held lock.
        with locks.open_and_take(self._tenants):
            if not _is_ours(name, tenant) and (refusal := self.refusal(tenant)):
                raise LaunchError(refusal)
            write_json(path, index)

    def refusal(self, tenant: str) -> str:
        """Return why no process of a tenant can be started now; empty if one can."""
        if self._sandbox is not None or self._shared:
            return ""
        for name in self.names():
            index = self.index(name)
            other = index.get("labels", {}).get("tenant", tenant)
            # A host that we share among tenants is nobody's, but has secrets of each.
            is_used = bool(index.get("host")) and not index.get("stopped")
            if other == tenant or _is_ours(name, other) or not (is_used or _is_held(self._directory(name))):
                continue
            return (
                "another tenant's processes run here, and this machine cannot isolate tenants; install bubblewrap "
                "(`archelon dev` and /readyz report what is missing), or allow it by `archelon dev --shared` or `shared` "
                "in the region's settings"
            )
        return ""

    def _sandboxed(
        self, order: ProcessOrder, program: ProcessProgram, environment: Mapping[str, str]
    ) -> dict[str, object] | None:
        if self._sandbox is None:
            return None
        wrapped = self._sandbox.wrap(
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
            "options": [*self._sandbox.new_namespaces(), *wrapped.options],
            "environment": wrapped.environment,
        }

    def _spawn(self, order: ProcessOrder, program: ProcessProgram, inherited: list[int]) -> None:
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
        self._checkpoint("supervisor ordered")
        self._supervisors.start(
            self._directory(order.name),
            message,
            inherited,
            isolated=self._sandbox is not None,
            # As our own user, a process can tamper with its sandbox's first process, and take that out of its group.
            shared=self._sandbox is not None and self._sandbox.root,
        )

    @contextlib.contextmanager
    def _stopped(self, name: Name, *, wait: float) -> Iterator[int | None]:
        """Yield the lock once nothing of the process runs, or None if that takes longer than `wait` seconds."""
        until = time.monotonic() + wait
        directory = self._directory(name)
        while True:
            with self._lock(name, create=directory.exists()) as lock:
                if lock is not None:
                    self._asked.pop(name, None)
                    if self._may_have_left(directory):
                        self._kill_strays(name)
                    self._checkpoint("ended")
                    if lock >= 0:
                        mark_stopped(directory, self._clock())
                    yield lock
                    return
            self._request_stop(name)
            self._checkpoint("stop requested")
            if (left := until - time.monotonic()) <= 0:
                yield None
                return
            self._await_release(directory, min(left, _REPEATED))

    def _request_stop(self, name: Name) -> None:
        directory = self._directory(name)
        status = read_json(directory / "status.json")
        supervisor = (status.get("supervisor", 0), status.get("supervisor_start", 0))
        if status.get("state") in FINAL_STATES or not processes.alive(*supervisor):
            return  # another launcher holds the lock briefly
        path = directory / "lock"
        try:
            if not path.stat().st_mode & STOP_REQUESTED:
                request_stop(directory)
            requested = path.stat().st_ctime_ns
        except FileNotFoundError:
            return  # removed by another
        processes.send(*supervisor, signal.SIGUSR1)
        now = time.monotonic()
        asked, since = self._asked.get(name, (0, 0.0))
        if asked != requested:
            self._asked[name] = (requested, now)
            return
        late = now - since - read_json(directory / INDEX_FILE).get("grace", 0.0)
        # If nothing of it is left, and its supervisor still has its lock, that hangs. The kernel kills its children.
        if late > _OVERDUE and not self._kill_marked(name) and late > 2 * _OVERDUE and _has_open(supervisor[0], path):
            processes.send(*supervisor, signal.SIGKILL)

    @staticmethod
    def _await_release(directory: Path, wait: float) -> None:
        """Wait until the lock may be free, at most `wait` seconds."""
        until = time.monotonic() + wait
        try:
            with contextlib.closing(inotify.Inotify()) as events:
                # The lock is closed by whoever held it.
                events.watch(str(directory), inotify.CLOSED)
                poll = select.poll()
                poll.register(events, select.POLLIN)
                while _is_held(directory) and (left := until - time.monotonic()) > 0:
                    poll.poll(left * 1000)
                    events.read()
        except OSError:  # the directory has been removed, or the system has no more watches
            time.sleep(min(wait, 0.02))

    @staticmethod
    def _may_have_left(directory: Path) -> bool:
        """Whether something of a process may run although its lock is free: the search reads a file of every process."""
        index = read_json(directory / INDEX_FILE)
        if not index or "host" in index:
            return False  # it was never started here, it has ended before it entered a host, or its removal was interrupted
        # A sandbox ends as a whole, and its supervisor reports that at the very end.
        state = read_json(directory / "status.json").get("state")
        return not (index.get("isolated") and state in FINAL_STATES)

    def _kill_strays(self, name: Name) -> None:
        """Kill processes left by a killed supervisor; called with the lock held, so none of them is meant to run."""
        while self._kill_marked(name):
            time.sleep(0.005)  # there is no event for the exit of processes other than children

    def _kill_marked(self, name: Name) -> bool:
        """Kill all that runs of a process; return whether there was something."""
        marker = f"{self._id}:{name}"
        found = [process for process, whole in processes.marked(marker) if whole == marker]
        for process in found:
            processes.send(process.pid, process.start, signal.SIGKILL)
        return bool(found)

    @contextlib.contextmanager
    def _lock(self, name: Name, *, create: bool) -> Iterator[int | None]:
        """Yield the descriptor of the process' lock, None if it is held elsewhere, or -1 if it does not exist."""
        path = self._directory(name) / "lock"
        while True:
            if create:
                private_directory(path.parent)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
            except FileNotFoundError:
                if create:
                    continue  # the directory was removed between the two calls
                yield -1
                return
            try:
                if not locks.try_take(descriptor):
                    yield None
                    return
                if not _is_same(descriptor, path):
                    continue  # removed, and perhaps recreated, while we opened it
                yield descriptor
                return
            finally:
                os.close(descriptor)

    def names(self, instance: str | None = None) -> list[Name]:
        """Return the names of all processes, or of one instance's."""
        owners = listing(self.instances) if instance is None else [instance]
        return [Name(owner, entry) for owner in owners for entry in listing(self.instances / owner)]

    def _directory(self, name: Name) -> Path:
        return self.instances / name.instance / name.process


def _is_ours(name: Name, tenant: str) -> bool:
    """Whether a process runs only our own code, for all tenants."""
    return name.instance == HOSTS and not tenant


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    with contextlib.suppress(OSError):
        found = path.stat()
        for each in listing(Path(f"/proc/{pid}/fd")):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{each}"), found):  # noqa: PTH116
                    return True
    return False


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _state_in(directory: Path) -> tuple[ProcessState, Mapping[str, Any]]:
    """Return a process' state and its status file's content. Takes no lock."""
    held, stopping = _lock_in(directory)
    status = read_json(directory / "status.json")
    state = state_of(status, held=held, stopping=stopping)
    if state is ProcessState.LOST and _is_held(directory):
        # Started between our test of the lock and our read of the status.
        state = state_of(status, held=True, stopping=False)
    return state, status


def _is_held(directory: Path) -> bool:
    return _lock_in(directory)[0]


def _lock_in(directory: Path) -> tuple[bool, bool]:
    """Return whether the lock is held, and whether a stop is requested."""
    try:
        # Only for reading: its close after writing tells the watcher that its holder has ended.
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, False
    try:
        return locks.held(descriptor), bool(os.fstat(descriptor).st_mode & STOP_REQUESTED)
    finally:
        os.close(descriptor)
