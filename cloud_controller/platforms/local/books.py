"""The files in which a process is kept: what the launcher writes down, what the supervisor says, and what both mean together."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from .orders import LaunchError, Order, Program, State

__all__ = [
    "inside",
    "listing",
    "mark_stopped",
    "message_of",
    "read_json",
    "remove_tree",
    "root_id",
    "state_of",
    "stays_in",
    "write_files",
    "write_json",
]


def root_id(root: Path) -> str:
    """The id by which processes of this root are known on the machine; made once."""
    path = root / "id"
    mine = root / f"id.{uuid.uuid4().hex}"
    mine.write_text(uuid.uuid4().hex, encoding="ascii")
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
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except PermissionError:
        path.chmod(0o700)
        for above, names, _files in os.walk(path):
            for directory in (Path(above, name) for name in names):
                if not directory.is_symlink():
                    directory.chmod(0o700)
        shutil.rmtree(path)


def stays_in(work: Path, target: Path) -> bool:
    """Whether a path below `work` leads nowhere else: a process owns its directory and may have put a link in the way."""
    try:
        parent = target.parent.resolve()
    except RuntimeError:
        return False  # a link that leads to itself; Python 3.13 says nothing then, and leaves it as it is
    return parent.is_relative_to(work.resolve()) and not any(each.is_symlink() for each in (parent, *parent.parents))


def write_files(work: Path, order: Order, program: Program, *, forget: set[str]) -> None:
    """Put the program's files below `work`, and take away those to forget.

    Raises:
        LaunchError: a path leads out of it, or the disk refuses.
    """
    try:
        for path in sorted(forget):
            if stays_in(work, work / path):
                (work / path).unlink(missing_ok=True)
        (work / inside(order.directory)).mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, content in program.files.items():
            target = work / inside(path)
            if not stays_in(work, target):
                raise LaunchError(
                    f"the file {path!r} of {order.name} leaves its directory through a link; remove the link"
                )
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(content)
    except OSError as problem:
        raise LaunchError(f"the files of {order.name} cannot be written: {problem.strerror}") from problem
