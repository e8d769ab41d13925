"""Keeps tenants' processes apart with bubblewrap, where the machine allows it.

A process sees the system's programs, Python as this one has it, its bundle, its own directory, and nothing else: no other file of
this machine, no process but those of its own sandbox, no environment of another. It cannot write but to its own directory and to
a `/tmp` in memory. The network is shared, since ports are how processes are reached.

How, depends on who we are. Root makes the namespaces itself, and gives each tenant a user of its own, that nobody else on the
machine has; no user namespace is needed. Anyone else needs one, and its processes remain, outside of it, their own user's.

bubblewrap is started with an environment of ours and takes the process' from a file in memory: what a tenant sets, such as
LD_PRELOAD, must act neither outside of the sandbox nor on what is root in it, and no secret may be in an argument.

Decided against: systemd-run (it needs a running systemd, and leaves the files of the installation visible unless each is named),
and unshare(1) with mounts of our own (a second bubblewrap, less tried).
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

#: Directories of programs and libraries; a link, as of merged /usr, stays one.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: What programs need of /etc to find libraries, names, certificates and the time. Nothing there is secret.
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
#: Users of tenants are of the first of these ranges that this machine's user namespace has whole. The second is systemd's for
#: users that come and go (DynamicUser), for containers of 65536 users.
_USERS = (range(1 << 30, 1 << 31), range(61184, 65520))
#: In a sandbox, with nothing of the tenant's yet: becomes the tenant's user, where root started it, and then the process. Who
#: started it listens at its standard input for a `+`, or for what is wrong.
_BECOME = f"""
import errno, os, sys
user, directory, command = sys.argv[1], sys.argv[2], sys.argv[3:]
heard = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
with open({ENVIRONMENT!r}, "rb") as stream:
    environment = dict(entry.split(b"=", 1) for entry in stream.read().split(b"\\0") if entry)
if user:
    os.setgroups([])
    os.setresgid(int(user), int(user), int(user))
    os.setresuid(int(user), int(user), int(user))
def tell(text):
    try:
        os.write(heard, text.encode(errors="replace"))
    except OSError:
        pass
doing = f"cannot enter the directory {{directory!r}}"
try:
    os.chdir(directory)
    doing = f"cannot start {{command[0]!r}}"
    searched = [""] if "/" in command[0] else os.fsdecode(environment.get(b"PATH", os.defpath)).split(os.pathsep)
    places = [os.path.join(each, command[0]) for each in searched]
    found = [each for each in places if os.path.isfile(each) and os.access(each, os.X_OK)]
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    tell("+")
    os.execve(found[0], command, environment)
except OSError as problem:
    tell(f"{{doing}}: {{problem.strerror}}")
    print(f"{{doing}}: {{problem.strerror}}", file=sys.stderr)
    sys.exit(127)
"""
#: Runs a program without what a set-user-id bit would give, as every process here is (prctl(2), PR_SET_NO_NEW_PRIVS).
_NO_NEW_PRIVILEGES = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
#: ioctl of a namespace that opens the user namespace that owns it (ioctl_nsfs(2)).
_NS_GET_USERNS = 0xB701
#: Bytes of each directory in memory: all that is there is the machine's.
_IN_MEMORY = 256 << 20
#: Seconds that the trial may take.
_TRIAL = 20.0


@dataclass(frozen=True)
class Wrapped:
    """A command as bubblewrap runs it: its options, and what goes to `ENVIRONMENT`."""

    command: tuple[str, ...]
    options: tuple[str, ...] = field(repr=False)
    environment: str = field(repr=False)


@dataclass(frozen=True)
class Sandbox:
    """How a process is started apart from all others.

    Args:
        bwrap: path of the program.
        id: of the installation, so that two on one machine share no users.
        root: whether we are root.
        readable: paths that every process sees, read-only; writable: that it may write, too.
    """

    bwrap: str
    id: str
    root: bool
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()

    def user(self, tenant: str) -> int | None:
        """The user (and group) of a tenant's processes and their files; None where it is this process' own.

        Derived and not kept: that two tenants have the same is unlikely, and then the namespaces keep them apart all the same.
        """
        if not self.root:
            return None
        users = next((each for each in _USERS if _mapped(each)), _USERS[-1])
        return users[int.from_bytes(hashlib.sha256(f"{self.id} {tenant}".encode()).digest()[:8]) % len(users)]

    def wrapped(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        tenant: str,
        work: Path,
        directory: str = ".",
        *,
        readable: Sequence[str] = (),
    ) -> Wrapped:
        """How bubblewrap runs a command, but for the namespaces of processes and users: see `new` and `joined`.

        Args:
            work: the process' own directory, seen where it is. directory: below it, to start in.
            readable: what this process sees beside what all do.

        Raises:
            LaunchError: a text cannot be an argument or a variable, and could be taken for an option.
        """
        place = str(work / directory)
        environment = {"HOME": str(work), **environment}
        _check(*environment, *environment.values(), *command, directory, *readable)
        if not all(name and "=" not in name for name in environment):
            raise LaunchError("a variable's name is empty or has '='; name it otherwise")
        options = ["--clearenv", *self._view(work, readable)]
        user = self.user(tenant)
        if user is not None:
            options += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        become = (sys.executable, "-I", "-S", "-c", _BECOME, "" if user is None else str(user), place)
        carried = "".join(f"{name}={value}\0" for name, value in environment.items())
        return Wrapped((*become, *command), tuple(options), carried)

    def _view(self, work: Path, readable: Sequence[str]) -> list[str]:
        """Options that say what is seen."""
        options = []
        options += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--proc", "/proc", "--dev", "/dev"]
        for place in ("/tmp", "/var/tmp", "/dev/shm"):  # nosec  # noqa: S108 - its own, in memory
            options += ["--perms", "1777", "--size", str(_IN_MEMORY), "--tmpfs", place]
        for path in _SYSTEM:
            if os.path.islink(path):  # noqa: PTH114
                options += ["--symlink", os.readlink(path), path]  # noqa: PTH115
            else:
                options += ["--ro-bind-try", path, path]
        shown = [*(f"/etc/{name}" for name in _ETC), *self.readable, *readable]
        written = [*self.writable, str(work)]
        # bubblewrap would make the directories above them for us alone.
        for above in dict.fromkeys(str(each) for path in (*shown, *written) for each in reversed(Path(path).parents)):
            options += ["--perms", "0755", "--dir", above]
        for path in shown:
            options += ["--ro-bind-try", path, path]
        for path in written:
            options += ["--bind", path, path]
        return [*options, "--remount-ro", "/"]

    def new(self) -> list[str]:
        """Options that make a sandbox: with its first process all of it ends, and that ends with who started it."""
        return ["--unshare-pid", "--die-with-parent", *([] if self.root else ["--unshare-user"])]

    @contextlib.contextmanager
    def carried(self, wrapped: Wrapped, namespaces: Sequence[str]) -> Iterator[tuple[list[str], list[int]]]:
        """bubblewrap's whole command line, which has nothing secret, and the descriptors that it names."""
        with contextlib.ExitStack() as stack:
            descriptors = []
            for text in ("".join(f"{option}\0" for option in (*namespaces, *wrapped.options)), wrapped.environment):
                descriptors.append(in_memory(text))
                stack.callback(os.close, descriptors[-1])
            yield command_line(self.bwrap, wrapped.command, descriptors[0], descriptors[1]), descriptors

    @contextlib.contextmanager
    def joined(self, pid: int, start: int) -> Iterator[tuple[list[str], list[int]]]:
        """Options that put a command among the processes of a sandbox, and the descriptors that they name.

        Args:
            pid, start: of the bubblewrap that was started for it.

        Raises:
            LaunchError: it does not run, or not yet.
        """
        first = next((each for each in processes.table().values() if each.parent == pid), None)
        if first is None or not processes.alive(pid, start):
            raise LaunchError("it does not run")
        with contextlib.ExitStack() as stack:
            opened: list[int] = []

            def kept(descriptor: int) -> str:
                opened.append(descriptor)
                stack.callback(os.close, descriptor)
                return str(descriptor)

            try:
                options = ["--pidns", kept(os.open(f"/proc/{first.pid}/ns/pid", os.O_RDONLY))]
                if not self.root:
                    # bubblewrap makes two, one in the other: the first owns the other namespaces, processes live in the second.
                    options += ["--userns", kept(fcntl.ioctl(opened[0], _NS_GET_USERNS))]
                    options += ["--userns2", kept(os.open(f"/proc/{first.pid}/ns/user", os.O_RDONLY))]
            except (FileNotFoundError, ProcessLookupError) as problem:
                raise LaunchError("it has ended") from problem
            if not processes.alive(first.pid, first.start):
                raise LaunchError("it has ended")
            yield options, opened


def _python_paths() -> tuple[str, ...]:
    """Where this Python and its libraries are, as far as they are not the system's."""
    # The last is where the program really lies: a virtual environment's is a link, perhaps to another.
    real = str(Path(sys.executable).resolve().parent.parent)
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, real)
    return tuple(dict.fromkeys(each for each in prefixes if not Path(each).is_relative_to("/usr")))


def found_sandbox(root: Path, *, readable: Sequence[str] = (), writable: Sequence[str] = ()) -> Sandbox | str:
    """How this machine keeps tenants apart, tried once; or, in words, why it cannot.

    Args:
        root: what no process may see but its own directory below it; made if missing.
        readable, writable: as `Sandbox` has them.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return "bubblewrap (bwrap) is not installed"
    shown = [os.path.realpath(each) for each in (*readable, *writable, *_python_paths(), *_SYSTEM)]
    above = next((each for each in shown if root.resolve().is_relative_to(each)), None)
    if above is not None:
        return f"the state directory lies in {above}, which every process sees; move it"
    private_directory(root)
    seen = (*_python_paths(), *readable)
    made = Sandbox(bwrap, root_id(root), os.geteuid() == 0, seen, tuple(writable))
    wrong = _trial(made, root)
    return made if wrong is None else wrong


def told_of(found: Sandbox | str, *, shared: bool) -> str:
    """What was found, in words."""
    if isinstance(found, Sandbox):
        how = "a user for each tenant" if found.root else "a user namespace for each process"
        return f"bubblewrap, {how}"
    rule = "tenants share this machine's user, as told" if shared else "one tenant at a time"
    return f"none ({found}); {rule}"


def _trial(sandbox: Sandbox, root: Path) -> str | None:
    """What is wrong with it, in words."""
    # It stays: several processes of one root may try at once.
    work = root / "trial"
    wrapped = sandbox.wrapped((sys.executable, "-I", "-S", "-c", ""), {}, "", work)
    alone = (sys.executable, "-I", "-S", "-c", _NO_NEW_PRIVILEGES)
    who = "root" if sandbox.root else "an unprivileged user"
    try:
        work.mkdir(mode=0o700, exist_ok=True)
        if (user := sandbox.user("")) is not None:
            os.chown(work, user, user)
        with sandbox.carried(wrapped, sandbox.new()) as (arguments, descriptors):
            done = subprocess.run(  # noqa: S603 - our own argument list
                [*alone, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TRIAL,
                check=False,
                env={},
                cwd="/",
                pass_fds=descriptors,
            )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"bubblewrap cannot be tried: {problem}"
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"bubblewrap does not work here as {who}: {said[-1] if said else f'status {done.returncode}'}"


def _check(*texts: str) -> None:
    """Refuse what is no argument or variable. Options end with a NUL: one within would begin another option."""
    for text in texts:
        try:
            wrong = b"\0" in text.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            wrong = True
        if wrong:
            raise LaunchError("an argument or variable has a NUL or half of a character; leave it out")


def _mapped(users: range) -> bool:
    """Whether this process' user namespace has all of them."""
    lines = [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()]
    return any(int(first) <= users[0] and users[-1] < int(first) + int(count) for first, _, count in lines)
