"""Input and output of the launcher as plain values."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...core.labels import Labels
from ..health import CannotSpawnError

#: The address that local processes listen on.
HERE = "127.0.0.1"
#: In place of an instance, in the names of the processes that serve orchestrators of many. Instances' ids are UUIDs.
HOSTS = "hosts"
#: The name of an instance's orchestrator among its processes.
ORCHESTRATOR = "orchestrator"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class LaunchError(CannotSpawnError):
    """A process cannot be started or stopped; the text gives the reason and the remedy, without secrets."""


@dataclass(frozen=True, order=True)
class Name:
    """The name of a process of an instance. Both parts become directory names.

    Raises:
        ValueError: a part is empty, longer than 120 characters, or has characters other than letters, digits, `.`, `_`, `-`.
    """

    instance: str
    process: str

    def __post_init__(self) -> None:
        for part in (self.instance, self.process):
            if not _NAME.fullmatch(part):
                raise ValueError(
                    f"{part!r} cannot name a process; use up to 120 letters, digits, '.', '_', '-', first a letter or digit"
                )

    def __str__(self) -> str:
        return f"{self.instance}/{self.process}"


@dataclass(frozen=True)
class ProcessLimits:
    """Resource limits of a process; None keeps the machine's.

    Args:
        memory: bytes of address space. files: open files. cpu: seconds of processor time. processes: of the user.
    """

    memory: int | None = None
    files: int | None = None
    cpu: int | None = None
    processes: int | None = None


@dataclass(frozen=True)
class Restart:
    """Restart policy for a process that exits by itself.

    Args:
        policy: `always`, `on-failure` (a status other than 0) or `never`.
        limit: maximum restarts within a minute.
        backoff: seconds before the first restart; doubled for each further one, up to `backoff_limit`.
    """

    policy: str = "never"
    limit: int = 5
    backoff: float = 0.5
    backoff_limit: float = 30.0


#: Default limits of an orchestrator, so that a leak terminates the orchestrator and not the machine.
LIMITS = ProcessLimits(memory=2 << 30, files=1024)
#: Environment of orchestrators and hosts, besides what is ordered.
ENVIRONMENT = {"PATH": os.defpath}
#: Default restart policy of orchestrators.
RESTART = Restart("always", limit=5)


@dataclass(frozen=True)
class ProcessProgram:
    """A program to run, complete once its ports are known.

    Args:
        command: argument list without a shell; the program is searched in the environment's PATH.
        environment: all variables of the process except our marker.
        files: content by path below the process' own directory; written with mode 0600.
        readable: paths that a sandboxed process needs besides the system and its own directory.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    readable: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProcessOrder:
    """The desired state of a process.

    Args:
        name: of the process. A second order of the same name and revision adopts a running process.
        revision: digest of everything whose change requires a restart.
        labels: of the owner.
        ports: numbers by name; 0 for any.
        directory: working directory below the process' own.
        grace: seconds between SIGTERM and SIGKILL.
        notes: the caller's own data, stored with the process and returned by `find`. Not secret.
    """

    name: Name
    revision: str
    labels: Labels
    ports: Mapping[str, int] = field(default_factory=dict)
    directory: str = "."
    limits: ProcessLimits = field(default_factory=ProcessLimits)
    restart: Restart = field(default_factory=Restart)
    grace: float = 10.0
    notes: Mapping[str, str] = field(default_factory=dict)


class ProcessState(enum.Enum):
    """The observed state of a process."""

    RESERVED = "reserved"  #: recorded but never started, since its launcher was killed
    STARTING = "starting"  #: the lock is held, but the supervisor has not reported yet
    RUNNING = "running"
    RESTARTING = "restarting"  #: exited by itself; the supervisor waits before a restart
    STOPPING = "stopping"
    STOPPED = "stopped"  #: stopped on request; directory and ports are kept
    EXITED = "exited"  #: exited by itself with status 0
    FAILED = "failed"  #: exited by itself, without restarts left
    LOST = "lost"  #: the supervisor was killed


@dataclass(frozen=True)
class Running:
    """The observed process.

    Args:
        since: time of the last state change, in seconds since the epoch.
        exit_status: of the last exit: 0 to 255, or the negative signal number.
        message: the reason for the state; may be empty.
        isolated: whether it runs, or ran, in a sandbox.
        host: the process of `HOSTS` in which it runs; empty if it is a process of its own. Then state and pid are the host's.
    """

    name: Name
    state: ProcessState
    revision: str = ""
    labels: Labels | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    since: float = 0.0
    restarts: int = 0
    exit_status: int | None = None
    message: str = ""
    isolated: bool = False
    host: str = ""

    @property
    def up(self) -> bool:
        """Whether the process runs or is about to."""
        return self.state in (ProcessState.STARTING, ProcessState.RUNNING, ProcessState.RESTARTING)
