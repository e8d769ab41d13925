"""A process' files: the launcher's index, the supervisor's status, and the state that results from both."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from archelon_core.private_files import close_to_others

from .orders import LaunchError, ProcessOrder, ProcessProgram, ProcessState
from .supervisor import STOP_REQUESTED

#: The file with a process' index.
INDEX_FILE = "book.json"
#: What a supervisor reports at its end.
FINAL_STATES = frozenset({ProcessState.STOPPED.value, ProcessState.EXITED.value, ProcessState.FAILED.value})
#: Opens a directory without following links.
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Seconds after which the removal of a tree is left to the next attempt.
_LONGEST_REMOVAL = 10.0


def root_id(root: Path) -> str:
    """Return the id of this root, which its processes carry; created once."""
    path = root / "id"
    mine = root / f"id.{uuid.uuid4().hex}"
    mine.touch(mode=0o600)
    mine.write_text(uuid.uuid4().hex, encoding="ascii")
    close_to_others(path)
    with contextlib.suppress(FileExistsError):
        os.link(mine, path)  # fails if it exists: concurrent starters agree on the first
    mine.unlink()
    return path.read_text(encoding="ascii")


def inside(path: str) -> PurePosixPath:
    """Return a relative path that stays inside its directory. Raises LaunchError for others."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise LaunchError(f"the path {path!r} leaves the process' directory; use one below it, without '..'")
    return pure


def listing(directory: Path) -> list[str]:
    """Return the sorted names in a directory; empty if it does not exist."""
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - called for each instance
    except (FileNotFoundError, NotADirectoryError):
        return []


def state_of(status: Mapping[str, Any], *, held: bool, stopping: bool) -> ProcessState:
    """Return the state from the lock and the supervisor's status; the lock takes precedence."""
    if held:
        if stopping:
            return ProcessState.STOPPING
        # A supervisor writes its final status just before it releases the lock.
        return ProcessState(status["state"]) if status else ProcessState.STARTING
    if not status:
        return ProcessState.RESERVED
    return ProcessState(status["state"]) if status["state"] in FINAL_STATES else ProcessState.LOST


def message_of(state: ProcessState, status: Mapping[str, Any]) -> str:
    """Return the reason for the state, for display."""
    if state is ProcessState.LOST:
        return "its supervisor was killed"
    return (
        str(status.get("message", ""))
        if state in (ProcessState.RESTARTING, ProcessState.EXITED, ProcessState.FAILED)
        else ""
    )


def mark_stopped(directory: Path, now: float) -> None:
    """Record that the process was stopped on request, even if its supervisor could not."""
    status = read_json(directory / "status.json")
    if status and status["state"] != ProcessState.STOPPED.value:
        stopped = {"state": ProcessState.STOPPED.value, "since": now, "restarts": status["restarts"]}
        # On a full disk the state remains `lost`, which is also not running.
        with contextlib.suppress(OSError):
            write_json(directory / "status.json", stopped)
    request_stop(directory, requested=False)


def request_stop(directory: Path, *, requested: bool = True) -> None:
    """Record in the mode of the lock that the process is to be stopped, or no longer: that needs no space on a disk."""
    with contextlib.suppress(FileNotFoundError):
        (directory / "lock").chmod(0o600 | STOP_REQUESTED if requested else 0o600)


def read_json(path: Path) -> dict[str, Any]:
    """Return the file's content; empty if it is missing, or truncated by a power failure."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace a file atomically."""
    new = path.with_name(f"{path.name}.new")
    close_to_others(new, make=True)
    new.write_text(json.dumps(content), encoding="utf-8")
    new.replace(path)


def remove_tree(path: Path | str, *, at: int | None = None) -> None:
    """Remove a file or directory tree, if it exists: also directories without permissions, and without following links.

    Args:
        at: descriptor of the directory that a relative path starts from, in which processes may run.

    Raises:
        OSError: something cannot be removed, or with `at`, removal takes long, since processes may add to it for ever.
    """
    _permit(path, at)
    try:
        top = os.open(path, _DIRECTORY, dir_fd=at)
    except FileNotFoundError:
        return
    except NotADirectoryError:  # also a link
        os.unlink(path, dir_fd=at)
        return
    until = time.monotonic() + _LONGEST_REMOVAL
    try:
        # Moves deeper directories to the top: a tree may be deeper than recursion or open descriptors allow.
        while names := os.listdir(top):  # noqa: PTH208 - of a descriptor
            if at is not None and time.monotonic() > until:
                raise OSError(errno.ENOTEMPTY, "it is too large to be removed at once; removal continues")
            for name in names:
                if _is_directory(name, top):
                    _empty_into(top, name)
                    os.rmdir(name, dir_fd=top)
                else:
                    os.unlink(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path, dir_fd=at)


def _empty_into(top: int, name: str) -> None:
    _permit(name, top)
    below = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for each in os.listdir(below):  # noqa: PTH208 - of a descriptor
            if _is_directory(each, below):
                # A directory without write permission cannot be moved.
                _permit(each, below)
                os.rename(each, uuid.uuid4().hex, src_dir_fd=below, dst_dir_fd=top)
            else:
                os.unlink(each, dir_fd=below)
    finally:
        os.close(below)


def _permit(path: Path | str, at: int | None) -> None:
    """Give us access to our directory. Root needs none, and must not follow a link that a process places meanwhile."""
    if os.geteuid() != 0:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(path, dir_fd=at, follow_symlinks=False).st_mode):
                os.chmod(path, 0o700, dir_fd=at)


def _is_directory(name: str, at: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def write_file(work: Path, path: str, text: str, *, owner: int | None = None, replace: bool = False) -> None:
    """Write a file below `work` and create its missing directories, accessible to their owner only.

    The process owns the directory and may place links at any moment, so each directory is opened relative to its parent,
    without following links.

    Args:
        owner: user and group of the file and directories; by default our own.
        replace: write `<path>.new` first, so that the process sees either the old or the new file.

    Raises:
        LaunchError: the path leaves the directory. OSError: it cannot be written.
    """
    with opened(work, inside(path).parent, owner=owner, create=True) as directory:
        name = inside(path).name
        written = f"{name}.new" if replace else name
        with contextlib.suppress(FileNotFoundError):
            os.unlink(written, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(written, flags, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, 0o600)
            if owner is not None:
                os.fchown(descriptor, owner, owner)
            stream.write(text)
        if replace:
            os.rename(written, name, src_dir_fd=directory, dst_dir_fd=directory)


def read_file(work: Path, path: str, limit: int) -> tuple[bytes, float] | None:
    """Return the first bytes of a process' file, and the time of its last change; None if it is no regular file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with opened(work, inside(path).parent) as directory, open_regular(inside(path).name, directory) as stream:
            return stream.read(limit), os.fstat(stream.fileno()).st_mtime
    except (FileNotFoundError, LaunchError):
        return None


def open_regular(name: str, directory: int) -> BinaryIO:
    """Open a process' file for reading, without following a link or waiting for a pipe.

    Raises:
        FileNotFoundError: it is missing, or no regular file. OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as problem:
        if problem.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from problem
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def remove_below(work: Path, path: str) -> bool:
    """Remove a file or tree below `work`; return whether it existed. Raises OSError."""
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(opened(work, inside(path).parent))
            os.stat(inside(path).name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, LaunchError):
            return False
        remove_tree(inside(path).name, at=directory)
        return True


def send_datagram(work: Path, name: str) -> None:
    """Send an empty datagram to a process' socket in `work`, unless its buffer is full or nothing that receives it is bound."""
    # What a process binds there is its own affair, such as a socket of another type; and a datagram only saves time.
    with (
        contextlib.suppress(OSError),
        opened(work, PurePosixPath()) as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        if stat.S_ISSOCK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            sender.setblocking(False)
            # The path of a socket is limited to 107 bytes.
            sender.sendto(b"", f"/proc/self/fd/{directory}/{name}")


@contextlib.contextmanager
def opened(work: Path, below: PurePosixPath, *, owner: int | None = None, create: bool = False) -> Iterator[int]:
    """Open a directory below `work`, whose parent is ours.

    Raises:
        LaunchError: a link leads out of it. FileNotFoundError: it is missing, without `create`.
    """
    directory = os.open(work, _DIRECTORY)
    try:
        for part in below.parts:
            created = create
            try:
                if create:
                    os.mkdir(part, 0o700, dir_fd=directory)
            except FileExistsError:
                created = False
            try:
                following = os.open(part, _DIRECTORY, dir_fd=directory)
            except NotADirectoryError as problem:
                raise LaunchError(
                    f"the path {str(below)!r} leaves the process' directory through a link; remove the link"
                ) from problem
            os.close(directory)
            directory = following
            if created and owner is not None:
                os.fchown(directory, owner, owner)
        yield directory
    finally:
        os.close(directory)


def write_files(
    work: Path, order: ProcessOrder, program: ProcessProgram, *, obsolete: set[str], owner: int | None = None
) -> None:
    """Write the program's files below `work`, and remove obsolete ones.

    Args:
        owner: user and group of the directory and its content.

    Raises:
        LaunchError: a path leaves the directory, or a write fails.
    """
    try:
        work.mkdir(mode=0o700, exist_ok=True)
        if work.lstat().st_uid != (os.geteuid() if owner is None else owner):
            _chown_tree(work, os.geteuid() if owner is None else owner)
        for path in sorted(obsolete):
            with (
                contextlib.suppress(LaunchError, FileNotFoundError),
                opened(work, inside(path).parent) as at,
            ):
                os.unlink(inside(path).name, dir_fd=at)
        with opened(work, inside(order.directory), owner=owner, create=True):
            pass
        for path, content in program.files.items():
            write_file(work, path, content, owner=owner)
    except OSError as problem:
        raise LaunchError(f"the files of {order.name} cannot be written: {problem.strerror}") from problem


def _chown_tree(work: Path, owner: int) -> None:
    """Change the owner of a directory tree; called only while its process does not run."""
    for _path, names, files, at in os.fwalk(work):
        for name in (*names, *files):
            os.chown(name, owner, owner, dir_fd=at, follow_symlinks=False)
        os.fchown(at, owner, owner)
