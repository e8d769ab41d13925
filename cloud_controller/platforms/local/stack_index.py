"""The files in which a process is kept: what the launcher writes down, what the supervisor says, and what both mean together."""

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

from .orders import LaunchError, Order, Program, State

#: To open a directory that no link has taken the place of.
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def root_id(root: Path) -> str:
    """The id by which processes of this root are known on the machine; made once."""
    path = root / "id"
    mine = root / f"id.{uuid.uuid4().hex}"
    mine.touch(mode=0o600)
    mine.write_text(uuid.uuid4().hex, encoding="ascii")
    close_to_others(path)
    with contextlib.suppress(FileExistsError):
        os.link(mine, path)  # fails where there is one: two starters agree on the first
    mine.unlink()
    return path.read_text(encoding="ascii")


def inside(path: str) -> PurePosixPath:
    """The path, if it stays below the directory that it is relative to. Raises LaunchError."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise LaunchError(f"the path {path!r} leaves the process' directory; give one below it, without '..'")
    return pure


def listing(directory: Path) -> list[str]:
    """Names in a directory, sorted; none where there is no directory."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def state_of(status: Mapping[str, Any], *, held: bool, stopping: bool) -> State:
    """What the lock and the supervisor's last word mean together; where they differ the lock is right."""
    if held:
        if stopping:
            return State.STOPPING
        # A supervisor says its last word a moment before it lets go, so this may be the word of one that has ended.
        return State(status["state"]) if status else State.STARTING
    if not status:
        return State.RESERVED
    said = State(status["state"])
    return said if said in (State.STOPPED, State.EXITED, State.FAILED) else State.LOST


def message_of(state: State, status: Mapping[str, Any]) -> str:
    """Why it is in this state, for people."""
    if state is State.LOST:
        return "its supervisor was killed"
    return str(status.get("message", "")) if state in (State.RESTARTING, State.EXITED, State.FAILED) else ""


def mark_stopped(directory: Path, now: float) -> None:
    """Say that it ended because it was asked to, also where its supervisor could not say so any more."""
    status = read_json(directory / "status.json")
    if status and status["state"] != State.STOPPED.value:
        stopped = {"state": State.STOPPED.value, "since": now, "restarts": status["restarts"]}
        # Where there is no room for it, it counts as lost: that it has ended is true all the same.
        with contextlib.suppress(OSError):
            write_json(directory / "status.json", stopped)
    (directory / "stop").unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where there is none, or a power failure left less than all of it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Put a finished file in place of the old one, so that a reader sees the one or the other."""
    new = path.with_name(f"{path.name}.new")
    close_to_others(new, make=True)
    new.write_text(json.dumps(content), encoding="utf-8")
    new.replace(path)


def remove_tree(path: Path) -> None:
    """Remove a directory and all that is in it: also what a process closed, and never what a link in its place leads to.

    Raises:
        OSError: something stays.
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
        # What lies deeper is brought up: a process may make a tree that is deeper than a program can recurse, or have open.
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
                # One that is not one's own to write to could not be moved.
                os.chmod(each, 0o700, dir_fd=below)
                os.rename(each, uuid.uuid4().hex, src_dir_fd=below, dst_dir_fd=top)
            else:
                os.unlink(each, dir_fd=below)
    finally:
        os.close(below)


def _is_directory(name: str, at: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def write_file(work: Path, path: str, text: str, *, owner: int | None = None) -> None:
    """Write a file below `work`, and the directories that it lacks, for their owner alone.

    The process owns the directory and may put a link anywhere at any moment, so each step is taken from the directory before
    it, and follows none.

    Args:
        owner: user and group of what is written; this process' own without it.

    Raises:
        LaunchError: the path leads out of the directory. OSError: it cannot be written.
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
    """A directory below `work`, made where it is missing."""
    directory = os.open(work, _DIRECTORY)
    try:
        for part in below.parts:
            made = True
            try:
                os.mkdir(part, 0o700, dir_fd=directory)
            except FileExistsError:
                made = False
            try:
                following = os.open(part, _DIRECTORY, dir_fd=directory)
            except NotADirectoryError as problem:
                raise LaunchError(
                    f"the file {shown!r} leaves its directory through a link; remove the link"
                ) from problem
            os.close(directory)
            directory = following
            if made and owner is not None:
                os.fchown(directory, owner, owner)
        yield directory
    finally:
        os.close(directory)


def write_files(work: Path, order: Order, program: Program, *, forget: set[str], owner: int | None = None) -> None:
    """Put the program's files below `work`, and take away those to forget.

    Args:
        owner: user and group of the directory and all in it.

    Raises:
        LaunchError: a path leads out of it, or the disk refuses.
    """
    try:
        work.mkdir(mode=0o700, exist_ok=True)
        if work.lstat().st_uid != (os.geteuid() if owner is None else owner):
            _give(work, os.geteuid() if owner is None else owner)
        for path in sorted(forget):
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


def _give(work: Path, owner: int) -> None:
    """Make another the owner of all of a directory; called while nothing of its process runs."""
    for _path, names, files, at in os.fwalk(work):
        for name in (*names, *files):
            os.chown(name, owner, owner, dir_fd=at, follow_symlinks=False)
        os.fchown(at, owner, owner)
