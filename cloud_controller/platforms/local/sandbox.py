"""Isolates tenants' processes with bubblewrap, if the machine permits it.

A process sees only the system's programs, this Python, its bundle and its own directory: no other file of the machine, no
process outside its sandbox, no other environment. It can write only to its own directory and to a `/tmp` in memory. The network
is shared, since processes are reached by port.

As root we create the namespaces directly, and each tenant gets a user that is unique on the machine; no user namespace is
needed. As any other user we need a user namespace, and outside of it the processes run as our own user.

bubblewrap runs with our own environment and reads the process' from a memory file: a tenant's variables, such as LD_PRELOAD,
must affect neither programs outside the sandbox nor root inside it, and secrets must not be in arguments.

Rejected alternatives: systemd-run (needs a running systemd, and leaves the installation's files visible unless each is named),
and unshare(1) with our own mounts (a less tested bubblewrap).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from archelon_core.private_files import private_directory

from . import processes
from .bubblewrap import ENVIRONMENT, command_line, in_memory
from .orders import LaunchError
from .stack_index import root_id

#: Directories of programs and libraries; links, as in a merged /usr, are kept.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: Files of /etc for libraries, names, certificates and the time zone. None of them is secret.
_ETC = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "passwd",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
)
#: Ranges of tenants' users; the first that our user namespace maps completely is used. The second is systemd's range for
#: DynamicUser, for containers of 65536 users.
_USERS = (range(1 << 30, 1 << 31), range(61184, 65520))
#: Runs in the sandbox without the tenant's environment: switches to the tenant's user if started by root, then executes the
#: process. Writes `+`, or an error, to its standard input, which the starter reads.
_EXECUTE = f"""
import errno, os, sys
user, directory, command = sys.argv[1], sys.argv[2], sys.argv[3:]
status = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
with open({ENVIRONMENT!r}, "rb") as stream:
    environment = dict(entry.split(b"=", 1) for entry in stream.read().split(b"\\0") if entry)
if user:
    os.setgroups([])
    os.setresgid(int(user), int(user), int(user))
    os.setresuid(int(user), int(user), int(user))
def report(text):
    try:
        os.write(status, text.encode(errors="replace"))
    except OSError:
        pass
failure = f"cannot enter the directory {{directory!r}}"
try:
    os.chdir(directory)
    failure = f"cannot start {{command[0]!r}}"
    searched = [""] if "/" in command[0] else os.fsdecode(environment.get(b"PATH", os.defpath)).split(os.pathsep)
    candidates = [os.path.join(each, command[0]) for each in searched]
    found = [each for each in candidates if os.path.isfile(each) and os.access(each, os.X_OK)]
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    report("+")
    os.execve(found[0], command, environment)
except OSError as problem:
    report(f"{{failure}}: {{problem.strerror}}")
    print(f"{{failure}}: {{problem.strerror}}", file=sys.stderr)
    sys.exit(127)
"""
#: Executes a program without set-user-ID privileges (prctl(2), PR_SET_NO_NEW_PRIVS), like every process here.
_NO_NEW_PRIVILEGES = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
#: ioctl that opens the user namespace owning a namespace (ioctl_nsfs(2)).
_NS_GET_USERNS = 0xB701
#: Size limit of each directory in memory, in bytes; it uses the machine's memory.
_IN_MEMORY = 256 << 20
#: Timeout of the trial run in seconds.
_TRIAL = 20.0


@dataclass(frozen=True)
class WrappedCommand:
    """A command in bubblewrap, with its options and the content of `ENVIRONMENT`."""

    command: tuple[str, ...]
    options: tuple[str, ...] = field(repr=False)
    environment: str = field(repr=False)


@dataclass(frozen=True)
class Sandbox:
    """Starts processes in isolation.

    Args:
        bwrap: path of the program.
        id: of the installation, so that two on one machine share no users.
        root: whether we are root.
        readable: paths that every process can read; writable: and write.
    """

    bwrap: str
    id: str
    root: bool
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()

    def user(self, tenant: str) -> int | None:
        """Return the user (and group) of a tenant's processes and files; None for our own user.

        Derived by hash, not stored: if two tenants ever get the same user, the namespaces still isolate them.
        """
        if not self.root:
            return None
        users = next((each for each in _USERS if _mapped(each)), _USERS[-1])
        return users[int.from_bytes(hashlib.sha256(f"{self.id} {tenant}".encode()).digest()[:8]) % len(users)]

    def wrap(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        tenant: str,
        work: Path,
        directory: str = ".",
        *,
        readable: Sequence[str] = (),
    ) -> WrappedCommand:
        """Wrap a command for bubblewrap, without PID and user namespaces: see `new_namespaces` and `join`.

        Args:
            work: the process' own directory, mounted at its path. directory: below it, to start in.
            readable: further paths that this process can read.

        Raises:
            LaunchError: a text is not a valid argument or variable, and could be parsed as an option.
        """
        environment = {"HOME": str(work), **environment}
        _check(*environment, *environment.values(), *command, directory, *readable)
        if not all(name and "=" not in name for name in environment):
            raise LaunchError("a variable's name is empty or contains '='; rename it")
        options = ["--clearenv", *self._view(work, readable)]
        user = self.user(tenant)
        if user is not None:
            options += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        execute = (sys.executable, "-I", "-S", "-c", _EXECUTE, "" if user is None else str(user), str(work / directory))
        content = "".join(f"{name}={value}\0" for name, value in environment.items())
        return WrappedCommand((*execute, *command), tuple(options), content)

    def _view(self, work: Path, readable: Sequence[str]) -> list[str]:
        """Return the options for mounts and other namespaces."""
        options = ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--proc", "/proc", "--dev", "/dev"]
        for path in ("/tmp", "/var/tmp", "/dev/shm"):  # nosec  # noqa: S108 - its own, in memory
            options += ["--perms", "1777", "--size", str(_IN_MEMORY), "--tmpfs", path]
        for path in _SYSTEM:
            if os.path.islink(path):  # noqa: PTH114
                options += ["--symlink", os.readlink(path), path]  # noqa: PTH115
            else:
                options += ["--ro-bind-try", path, path]
        read_only = [*(f"/etc/{name}" for name in _ETC), *self.readable, *readable]
        read_write = [*self.writable, str(work)]
        # bubblewrap itself would create the parent directories with access for us only.
        for parent in dict.fromkeys(
            str(each) for path in (*read_only, *read_write) for each in reversed(Path(path).parents)
        ):
            options += ["--perms", "0755", "--dir", parent]
        for path in read_only:
            options += ["--ro-bind-try", path, path]
        for path in read_write:
            options += ["--bind", path, path]
        return [*options, "--remount-ro", "/"]

    def new_namespaces(self) -> list[str]:
        """Return the options for a new sandbox, which ends with its first process, which in turn ends with its parent."""
        return ["--unshare-pid", "--die-with-parent", *([] if self.root else ["--unshare-user"])]

    @contextlib.contextmanager
    def bwrap_command(
        self, wrapped: WrappedCommand, namespaces: Sequence[str]
    ) -> Iterator[tuple[list[str], list[int]]]:
        """Return bubblewrap's command line, without secrets, and the descriptors that it refers to."""
        with contextlib.ExitStack() as stack:
            descriptors = []
            for text in ("".join(f"{option}\0" for option in (*namespaces, *wrapped.options)), wrapped.environment):
                descriptors.append(in_memory(text))
                stack.callback(os.close, descriptors[-1])
            yield command_line(self.bwrap, wrapped.command, descriptors[0], descriptors[1]), descriptors

    @contextlib.contextmanager
    def join(self, pid: int, start: int) -> Iterator[tuple[list[str], list[int]]]:
        """Return the options that run a command in an existing sandbox, and the descriptors that they refer to.

        Args:
            pid, start: of the sandbox's bubblewrap.

        Raises:
            LaunchError: the sandbox does not run, or not yet.
        """
        first = next((each for each in processes.table().values() if each.parent == pid), None)
        if first is None or not processes.alive(pid, start):
            raise LaunchError("it does not run")
        with contextlib.ExitStack() as stack:
            opened: list[int] = []

            def opened_as(descriptor: int) -> str:
                opened.append(descriptor)
                stack.callback(os.close, descriptor)
                return str(descriptor)

            try:
                options = ["--pidns", opened_as(os.open(f"/proc/{first.pid}/ns/pid", os.O_RDONLY))]
                if not self.root:
                    # bubblewrap nests two: the outer owns the other namespaces, the processes are in the inner.
                    options += ["--userns", opened_as(fcntl.ioctl(opened[0], _NS_GET_USERNS))]
                    options += ["--userns2", opened_as(os.open(f"/proc/{first.pid}/ns/user", os.O_RDONLY))]
            except (FileNotFoundError, ProcessLookupError) as problem:
                raise LaunchError("it has ended") from problem
            if not processes.alive(first.pid, first.start):
                raise LaunchError("it has ended")
            yield options, opened


def _python_paths() -> tuple[str, ...]:
    """Return the paths of this Python and its libraries outside of the system's."""
    # The executable of a virtual environment may be a link to another prefix.
    real = str(Path(sys.executable).resolve().parent.parent)
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, real)
    return tuple(dict.fromkeys(each for each in prefixes if not Path(each).is_relative_to("/usr")))


def detect_sandbox(root: Path, *, readable: Sequence[str] = (), writable: Sequence[str] = ()) -> Sandbox | str:
    """Return a sandbox after a trial run, or the reason why this machine has none.

    Args:
        root: hidden from processes except their own directories below it; created if missing.
        readable, writable: as for `Sandbox`.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return "bubblewrap (bwrap) is not installed"
    visible = [os.path.realpath(each) for each in (*readable, *writable, *_python_paths(), *_SYSTEM)]
    parent = next((each for each in visible if root.resolve().is_relative_to(each)), None)
    if parent is not None:
        return f"the state directory is in {parent}, which every process can read; move it"
    private_directory(root)
    sandbox = Sandbox(bwrap, root_id(root), os.geteuid() == 0, (*_python_paths(), *readable), tuple(writable))
    return _trial(sandbox, root) or sandbox


def describe_isolation(found: Sandbox | str, *, shared: bool) -> str:
    """Describe the result of `detect_sandbox` to operators."""
    if isinstance(found, Sandbox):
        return "bubblewrap, " + ("a user for each tenant" if found.root else "a user namespace for each process")
    rule = "tenants share this machine's user, as configured" if shared else "one tenant at a time"
    return f"none ({found}); {rule}"


def _trial(sandbox: Sandbox, root: Path) -> str:
    """Run a trial in the sandbox; return the problem, or an empty string."""
    # Not removed: several processes of one root may run a trial at once.
    work = root / "trial"
    wrapped = sandbox.wrap((sys.executable, "-I", "-S", "-c", ""), {}, "", work)
    unprivileged = (sys.executable, "-I", "-S", "-c", _NO_NEW_PRIVILEGES)
    try:
        work.mkdir(mode=0o700, exist_ok=True)
        if (user := sandbox.user("")) is not None:
            os.chown(work, user, user)
        with sandbox.bwrap_command(wrapped, sandbox.new_namespaces()) as (arguments, descriptors):
            done = subprocess.run(  # noqa: S603 - our own argument list
                [*unprivileged, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TRIAL,
                check=False,
                env={},
                cwd="/",
                pass_fds=descriptors,
            )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"bubblewrap cannot be run: {problem}"
    if done.returncode == 0:
        return ""
    output = done.stderr.decode(errors="replace").strip().splitlines()
    caller = "root" if sandbox.root else "an unprivileged user"
    return f"bubblewrap does not work here as {caller}: {output[-1] if output else f'status {done.returncode}'}"


def _check(*texts: str) -> None:
    """Refuse invalid arguments and variables. Options are NUL-terminated: a NUL inside would start another option."""
    for text in texts:
        try:
            is_invalid = b"\0" in text.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            is_invalid = True
        if is_invalid:
            raise LaunchError("an argument or variable contains a NUL or a surrogate; remove it")


def _mapped(users: range) -> bool:
    """Whether our user namespace maps all of these users."""
    lines = [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()]
    return any(int(first) <= users[0] and users[-1] < int(first) + int(count) for first, _, count in lines)
