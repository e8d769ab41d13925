"""What the launcher is told and what it tells: plain values, no behaviour."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...core.labels import Labels
from ..health import CannotSpawnError

#: The address that local processes listen on.
HERE = "127.0.0.1"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class LaunchError(CannotSpawnError):
    """A process cannot be started or ended; the text says why and what to do, and holds no secret."""


@dataclass(frozen=True, order=True)
class Name:
    """Names one process of one instance. Both parts become directory names.

    Raises:
        ValueError: a part is empty, too long (120 characters) or has other characters than letters, digits, `.`, `_`, `-`.
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
    """Bounds of one process; None leaves the machine's.

    Args:
        memory: bytes of address space. files: open files. cpu: seconds of processor time. processes: of the whole user.
    """

    memory: int | None = None
    files: int | None = None
    cpu: int | None = None
    processes: int | None = None


@dataclass(frozen=True)
class Restart:
    """What the supervisor does when the process ends by itself.

    Args:
        policy: `always`, `on-failure` (a status other than 0) or `never`.
        limit: restarts within a minute before it gives up.
        backoff: seconds before the first restart; doubled for each next, up to `backoff_limit`.
    """

    policy: str = "never"
    limit: int = 5
    backoff: float = 0.5
    backoff_limit: float = 30.0


@dataclass(frozen=True)
class Program:
    """What runs, complete once its ports are known.

    Args:
        command: argument list; the first is looked up in the environment's PATH. No shell.
        environment: exactly what the process sees, besides our marker.
        files: content by path below the process' own directory; written with mode 0600.
        readable: paths that it must see beside the system and its own directory, where it runs in a sandbox.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    readable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """A process as wanted.

    Args:
        name: which. A second order of the same name and revision adopts what runs.
        revision: digest of everything that a change of should restart the process for.
        labels: whose.
        ports: numbers by name; 0 takes any.
        directory: working directory below the process' own.
        grace: seconds between SIGTERM and SIGKILL.
        notes: kept with the process and given back by `find`; for what the caller needs to recognise it. Not secret.
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


class State(enum.Enum):
    """What is seen of a process on the machine."""

    RESERVED = "reserved"  #: booked, never started: its launcher was killed before
    STARTING = "starting"  #: the lock is held, the supervisor has not spoken yet
    RUNNING = "running"
    RESTARTING = "restarting"  #: ended by itself; the supervisor waits before it starts it again
    STOPPING = "stopping"
    STOPPED = "stopped"  #: ended because it was asked to; directory and ports are kept
    EXITED = "exited"  #: ended by itself with status 0
    FAILED = "failed"  #: ended by itself, more often than it may
    LOST = "lost"  #: the supervisor was killed


@dataclass(frozen=True)
class Running:
    """A process as found on the machine.

    Args:
        since: seconds since the epoch at which it came into this state.
        exit_status: of the last end: 0 to 255, or minus the signal.
        message: why it is in this state, for people; empty where the state says it.
        isolated: whether it runs, or ran, in a sandbox.
    """

    name: Name
    state: State
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

    @property
    def up(self) -> bool:
        """Whether it runs or is about to."""
        return self.state in (State.STARTING, State.RUNNING, State.RESTARTING)
