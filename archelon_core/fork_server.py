"""Starts processes of our own code by forking a parent that has imported it: no start of Python, and shared memory.

The parent imports the given modules, freezes the garbage collector's objects, so that no collection copies their pages, and
forks on request. It has one thread. Requests come over a socket pair, and descriptors with them (SCM_RIGHTS); a request's
content is in a memory file, so it may be large and is in no argument. The parent ends when its owner's end of the socket
closes, hence also with its owner.

A page that either of parent and child writes to is no longer shared, and Python writes to a page when it counts a reference in
it. So the parent only forks, the child reads the request and answers, and both avoid what touches much memory: threading, which
runs code after each fork, enumerations, JSON and streams.

A child leads its own session. It shows its own command line and environment in /proc and `ps`, as far as there is room, by
writing over those that the parent was started with, as setproctitle does: the kernel reads them from the process' memory.

- A *detached* child outlives parent and owner.
- An *attached* child is terminated when the owner closes the socket, and killed when the parent dies. Nothing of its session
  survives it. Its exit status comes through a pipe, so a thread can wait for it.

Standard library only, and importable by `python -I -S`: a supervisor of the local platform is forked from a parent that
imports little else. Rejected alternatives: docs/adr/043-fork-servers.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import marshal
import os
import select
import signal
import socket
import sys
from _thread import allocate_lock
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import subprocess

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_BOOTSTRAP = "import sys; sys.path[:0] = [sys.argv[1]]; from archelon_core.fork_server import main; main(sys.argv[2:])"
#: Bytes of command line and of environment that a child can show.
_ROOM = 1024
#: Of one message, by the kernel.
DESCRIPTOR_LIMIT = 253
_CONTROL = socket.CMSG_SPACE(4 * DESCRIPTOR_LIMIT)
#: The kinds of children.
_ATTACHED, _DETACHED = b"a", b"d"
_LIBC = ctypes.CDLL(None, use_errno=True)


class ForkError(OSError):
    """A process could not be forked, or it is unknown whether it was; `strerror` says which and why."""


class Forked:
    """An attached child, the leader of its session."""

    def __init__(self, pid: int, handle: int, status: int) -> None:
        self.pid = pid
        self._lock = allocate_lock()
        self._handle = handle
        self._status = status

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, number)

    def wait(self) -> int:
        """Wait until nothing of its session runs; return the exit status, negative for a signal. Call it once."""
        with os.fdopen(self._status, "rb") as status:
            written = status.read()
        if not written:
            # The parent has died, and with it this child.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            select.select([self._handle], [], [])
        with self._lock:
            handle, self._handle = self._handle, -1
            os.close(handle)
        return int(written) if written else -signal.SIGKILL


class ForkServer:
    """A parent process, started at the first fork, and again if it has died. Threads can share it.

    Args:
        modules: to import before the first fork; of `module:name`, the function is then called.
        options: of the interpreter.
        environment: of the parent.
        title: name of the parent, as shown.
        seconds: timeout of a fork, including the imports before the first.
    """

    def __init__(
        self,
        modules: Sequence[str],
        *,
        options: Sequence[str] = ("-I", "-S"),
        environment: Mapping[str, str] | None = None,
        title: str = "archelon-fork-server",
        seconds: float = 10.0,
    ) -> None:
        self._modules = modules
        self._options = options
        self._environment = environment or {}
        self._title = title
        self._seconds = seconds
        self._lock = allocate_lock()
        self._parent: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._owner = 0

    def open(self) -> None:
        """Start the parent unless it runs. Does not wait for its imports. Raises OSError."""
        with self._lock:
            self._open()

    def fork(
        self,
        function: str,
        *arguments: object,
        title: Sequence[str],
        shown: Mapping[str, str],
        descriptors: Sequence[int] = (),
        output: int,
        errors: int,
    ) -> int:
        """Fork a detached child that calls a function and exits with its result; returns the process id.

        Args:
            function: `module:name`. arguments: JSON values, then the child's numbers of the `descriptors`.
            title: the command line to show. shown: the environment to show; its own is empty.
            descriptors: inherited. output, errors: become the standard output and error.

        Raises:
            ForkError: there is no such function, or no process. With `errno.EPIPE`, the parent died: the child may run.
            OSError: the parent cannot be started.
        """
        text = _joined(f"{name}={value}" for name, value in shown.items())
        request = (function, arguments, _joined(title), text, dict[str, str]())
        return self._exchange(_DETACHED, request, [output, errors, *descriptors])[0]

    def fork_attached(
        self, function: str, *arguments: object, title: Sequence[str], environment: Mapping[str, str], output: int
    ) -> Forked:
        """Fork an attached child; see `fork`. The output is also the standard error."""
        shown = _joined(f"{name}={value}" for name, value in environment.items())
        request = (function, arguments, _joined(title), shown, dict(environment))
        status, writer = os.pipe()
        try:
            pid, [handle] = self._exchange(_ATTACHED, request, [output, output, writer])
            return Forked(pid, handle, status)
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(writer)

    @property
    def pid(self) -> int:
        """The parent's process id; 0 before its start."""
        return self._parent.pid if self._parent is not None else 0

    def close(self) -> None:
        """Let the parent end: it terminates the attached children, and waits for them. Returns before that."""
        with self._lock:
            channel, self._socket = self._socket, None
            if channel is not None:
                channel.close()

    def join(self) -> None:
        """Wait, after `close`, until the parent and all attached children have ended."""
        if self._parent is not None and self._owner == os.getpid():
            self._parent.wait()

    def _open(self) -> socket.socket:
        if self._socket is not None and self._owner == os.getpid():
            assert self._parent is not None
            if self._parent.poll() is None:
                return self._socket
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._parent is not None:
            if self._owner == os.getpid():
                self._parent.wait()  # it ends with the socket
            else:
                self._parent.returncode = 0  # we are a fork of its owner, which waits for it
        import subprocess

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - no pathlib here
            command = [sys.executable, *self._options, "-c", _BOOTSTRAP, package, str(theirs.fileno()), self._title]
            try:
                self._parent = subprocess.Popen(  # noqa: S603 - our own program
                    [*command, *self._modules, " " * _ROOM],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**self._environment, "_": " " * _ROOM},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.settimeout(self._seconds)
        self._owner, self._socket = os.getpid(), ours
        return ours

    def _exchange(self, kind: bytes, request: Any, descriptors: Sequence[int]) -> tuple[int, list[int]]:
        if len(descriptors) >= DESCRIPTOR_LIMIT:
            raise ForkError(errno.EMFILE, f"a process can inherit at most {DESCRIPTOR_LIMIT} files")
        content = os.memfd_create("request")
        try:
            with os.fdopen(content, "wb", closefd=False) as stream:
                stream.write(marshal.dumps(request))
            with self._lock:
                return self._forked(kind, [content, *descriptors])
        finally:
            os.close(content)

    def _forked(self, kind: bytes, descriptors: Sequence[int]) -> tuple[int, list[int]]:
        channel = self._open()
        try:
            socket.send_fds(channel, [kind], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            # It has died since the last request; nothing was sent.
            self._end()
            channel = self._open()
            socket.send_fds(channel, [kind], descriptors)
        try:
            reply, handles = receive(channel)
        except TimeoutError:
            self._end()
            raise ForkError(errno.EPIPE, f"the fork server did not answer within {self._seconds:g} s") from None
        except ConnectionResetError:
            reply = b""
        if not reply:
            self._end()
            raise ForkError(errno.EPIPE, "the fork server ended during a request")
        pid, number, text = reply.decode(errors="replace").split(" ", 2)
        if text:
            raise ForkError(int(number), text)
        return int(pid), handles

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._parent is not None:
            self._parent.kill()
            self._parent.wait()


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Receive a message of at most 64 KiB, and descriptors, which no executed program inherits. Raises OSError.

    `socket.recv_fds` of Python 3.11 ignores its flags, and programs would inherit what it returns.
    """
    content, control, flags, _ = channel.recvmsg(65536, _CONTROL, socket.MSG_CMSG_CLOEXEC)
    descriptors = [number for _, _, data in control for number in memoryview(data).cast("i")]
    if flags & socket.MSG_CTRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return content, descriptors


def _joined(texts: Iterable[str]) -> bytes:
    return b"".join(text.encode(errors="surrogateescape") + b"\0" for text in texts)


class _Shown:
    """The memory from which the kernel reads a process' command line and environment (proc(5), `arg_start` to `env_end`)."""

    def __init__(self) -> None:
        fields = _read("/proc/self/stat").rpartition(b")")[2].split()
        self._arguments, _, self._environment, self._end = map(int, fields[45:49])

    def set(self, title: bytes, environment: bytes) -> None:
        """Show these texts, each of which ends with NUL, as far as there is room."""
        # The last byte stays NUL; otherwise the kernel would take the environment for a part of the command line.
        room = self._environment - self._arguments - 1
        content = title[:room].ljust(room + 1, b"\0") + environment.ljust(self._end - self._environment, b"\0")
        memory = os.open("/proc/self/mem", os.O_WRONLY)
        os.pwrite(memory, content[: self._end - self._arguments], self._arguments)
        os.close(memory)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


class _Parent:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._shown = _Shown()
        #: Descriptors for the exit statuses of the attached children.
        self._attached: dict[int, int] = {}
        self._wakeup, self._wake = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wake, False)
        self._pid = os.getpid()

    def serve(self, title: str, modules: Sequence[str]) -> None:
        """Serve until the owner has gone and all attached children have ended. Each child leaves by SystemExit, or an error."""
        self._shown.set(title.encode(), b"")
        _LIBC.prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)
        for name in modules:
            module, _, function = name.partition(":")
            imported = importlib.import_module(module)
            if function:
                getattr(imported, function)()
        # Before a child writes over the memory that it is in.
        os.environ.clear()
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        gc.collect()
        gc.freeze()
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        serving = True
        while serving or self._attached:
            for descriptor, _ in poll.poll():
                if descriptor == self._wakeup:
                    self._reap()
                    continue
                kind, descriptors = self._receive()
                if kind:
                    self._fork(kind, descriptors)
                else:
                    poll.unregister(self._channel)
                    serving = False
                    for pid in self._attached:
                        os.kill(pid, signal.SIGTERM)

    def _receive(self) -> tuple[bytes, list[int]]:
        """Return the kind and the descriptors of a request; an empty kind if the owner has gone."""
        try:
            return receive(self._channel)
        except ConnectionResetError:
            return b"", []

    def _fork(self, kind: bytes, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as problem:
            self._answer(problem.errno or errno.EAGAIN, f"cannot fork: {problem.strerror}")
        else:
            if pid == 0:
                self._run(kind, descriptors)
            if kind == _ATTACHED:
                self._attached[pid] = descriptors.pop()
        for descriptor in descriptors:
            os.close(descriptor)

    def _run(self, kind: bytes, received: list[int]) -> NoReturn:
        """In a child: answer the request, and call the function."""
        signal.set_wakeup_fd(-1)
        for descriptor in (self._wakeup, self._wake, *self._attached.values()):
            os.close(descriptor)
        try:
            content = received.pop(0)
            request = os.pread(content, os.fstat(content).st_size, 0)
            os.close(content)
            function_name, arguments, title, shown, environment = marshal.loads(request)  # nosec  # noqa: S302 - our owner's
            module, _, name = function_name.partition(":")
            function = getattr(sys.modules.get(module) or importlib.import_module(module), name)
            os.setsid()
            if kind == _ATTACHED:
                os.close(received.pop())
                _LIBC.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
                if os.getppid() != self._pid:
                    os._exit(1)  # the parent died before the death signal was set
                os.environ.update(environment)
                _LIBC.prctl(_PR_SET_NAME, title[:15], 0, 0, 0)
            self._shown.set(title, shown)
            output, errors, *others = received
            os.dup2(output, 1)
            os.dup2(errors, 2)
            os.close(output)
            os.close(errors)
        except Exception as problem:  # noqa: BLE001 - whatever is wrong with the request, its owner is told
            self._answer(errno.EINVAL, f"{type(problem).__name__}: {problem}")
            os._exit(1)
        if kind == _ATTACHED:
            handle = os.pidfd_open(os.getpid())
            socket.send_fds(self._channel, [b"%d 0 " % os.getpid()], [handle])
            os.close(handle)
        else:
            self._answer(0, "")
        self._channel.close()
        sys.exit(function(*arguments, *others))

    def _answer(self, number: int, text: str) -> None:
        """Tell the owner a process id, or an error."""
        try:
            self._channel.send(b"%d %d %b" % (os.getpid(), number, text.encode(errors="replace")[:1000]))
        except (BrokenPipeError, ConnectionResetError):
            return  # it has gone, which the parent notices

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            status = self._attached.pop(pid, None)
            if status is not None:
                # What it forked may hold the port that its successor needs. The zombie keeps the id of the session reserved.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if status is not None:
                with contextlib.suppress(BrokenPipeError):
                    os.write(status, b"%d" % code)
                os.close(status)


def main(arguments: Sequence[str]) -> None:
    """Run as `main([descriptor of the socket, title, module, …, filler])`."""
    channel = socket.socket(fileno=int(arguments[0]))
    channel.set_inheritable(False)
    _Parent(channel).serve(arguments[1], arguments[2:-1])
