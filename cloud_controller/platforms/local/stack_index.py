"""A process' files: the launcher's index, the supervisor's status, and the state that results from both."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from archelon_core.private_files import close_to_others

from .orders import LaunchError, ProcessOrder, ProcessProgram, ProcessState

#: The file with a process' index.
INDEX_FILE = "book.json"
#: Opens a directory without following links.
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
        return sorted(entry.name for entry in directory.iterdir())
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
    reported = ProcessState(status["state"])
    return (
        reported if reported in (ProcessState.STOPPED, ProcessState.EXITED, ProcessState.FAILED) else ProcessState.LOST
    )


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
    (directory / "stop").unlink(missing_ok=True)


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


def remove_tree(path: Path) -> None:
    """Remove a directory tree, including directories without permissions, and without following links.

    Raises:
        OSError: something cannot be removed.
    """
    if path.is_symlink():
        path.unlink()
        return
    try:
        path.chmod(0o700)
    except FileNotFoundError:
        return
    top = os.open(path, _DIRECTORY)
    try:
        # Moves deeper directories to the top: a tree may be deeper than recursion or open descriptors allow.
        while names := os.listdir(top):  # noqa: PTH208 - of a descriptor
            for name in names:
                if _is_directory(name, top):
                    _empty_into(top, name)
                    os.rmdir(name, dir_fd=top)
                else:
                    os.unlink(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _empty_into(top: int, name: str) -> None:
    os.chmod(name, 0o700, dir_fd=top)
    below = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for each in os.listdir(below):  # noqa: PTH208 - of a descriptor
            if _is_directory(each, below):
                # A directory without write permission cannot be moved.
                os.chmod(each, 0o700, dir_fd=below)
                os.rename(each, uuid.uuid4().hex, src_dir_fd=below, dst_dir_fd=top)
            else:
                os.unlink(each, dir_fd=below)
    finally:
        os.close(below)


def _is_directory(name: str, at: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def write_file(work: Path, path: str, text: str, *, owner: int | None = None) -> None:
    """Write a file below `work` and create its missing directories, accessible to their owner only.

    The process owns the directory and may place links at any moment, so each directory is opened relative to its parent,
    without following links.

    Args:
        owner: user and group of the file and directories; by default our own.

    Raises:
        LaunchError: the path leaves the directory. OSError: it cannot be written.
    """
    with _opened(work, inside(path).parent, path, owner) as directory:
        name = inside(path).name
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, 0o600)
            if owner is not None:
                os.fchown(descriptor, owner, owner)
            stream.write(text)


@contextlib.contextmanager
def _opened(work: Path, below: PurePosixPath, shown: str, owner: int | None) -> Iterator[int]:
    """Open a directory below `work`, created if missing."""
    directory = os.open(work, _DIRECTORY)
    try:
        for part in below.parts:
            created = True
            try:
                os.mkdir(part, 0o700, dir_fd=directory)
            except FileExistsError:
                created = False
            try:
                following = os.open(part, _DIRECTORY, dir_fd=directory)
            except NotADirectoryError as problem:
                raise LaunchError(
                    f"the file {shown!r} leaves its directory through a link; remove the link"
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
                _opened(work, inside(path).parent, path, owner) as at,
            ):
                os.unlink(inside(path).name, dir_fd=at)
        with _opened(work, inside(order.directory), order.directory, owner):
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
