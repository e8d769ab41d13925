"""The launcher on a machine in trouble: a full disk, no more forks, files that a power failure left half written.

`/dev/full` stands for the disk: what is written there fails as on a full one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_controller.platforms.local.inventory import LocalInventory
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.logs import read_log
from cloud_controller.platforms.local.orders import LaunchError, Restart, State
from cloud_controller.platforms.local.sandbox import Sandbox
from cloud_controller.platforms.local.supervisor import _Log, _Supervisor
from tests.waiting import until

from .test_launcher import NAME, is_in, order, running, start, supervisor_of


@pytest.fixture
def launcher(tmp_path: Path, sandbox: Sandbox | None) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "root", sandbox=sandbox, shared=True)
    yield launcher
    for process in launcher.find():
        assert launcher.remove(process.name, wait=60)
    assert launcher.remains("i-1") == ()


@pytest.fixture
def directory(launcher: Launcher) -> Path:
    found = launcher.work(NAME).parent
    found.mkdir(parents=True)
    return found


def test_a_process_whose_output_finds_no_room_goes_on(launcher: Launcher, directory: Path) -> None:
    (directory / "log").mkdir()
    (directory / "log" / "0").symlink_to("/dev/full")
    # More than a pipe holds: it gets to the end only if somebody goes on reading.
    start(launcher, order(), "sh", "-c", "head -c 300000 /dev/zero; touch done; exec sleep 1000")
    until((launcher.work(NAME) / "done").exists)
    assert is_in(launcher, State.RUNNING)


def test_positions_in_a_log_stay_true_where_a_write_was_cut_short(tmp_path: Path) -> None:
    log = _Log(str(tmp_path), segment=1000, kept=3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        log.write(b"a" * 400)
        log.write(b"b" * 400)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.write(b"c" * 500)
    read, position = b"", 0
    while chunk := read_log(tmp_path, position, 10_000):
        if not chunk.data:
            break
        read, position = read + chunk.data, chunk.next
    assert read == b"a" * 400 + b"b" * 200 + b"c" * 500
    assert position == len(read)


def test_a_state_that_could_not_be_told_is_told_when_there_is_room(launcher: Launcher, directory: Path) -> None:
    first = start(launcher, order(restart=Restart("always", limit=3, backoff=0.05)), "sleep", "1000")
    assert first.pid is not None
    (directory / "status.json.new").symlink_to("/dev/full")
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: running(launcher) not in ([], [first.pid]))
    (directory / "status.json.new").unlink()
    until(lambda: (found := launcher.observe(NAME)) is not None and [found.pid] == running(launcher))
    found = launcher.observe(NAME)
    assert found is not None
    assert (found.state, found.restarts) == (State.RUNNING, 1)


@pytest.mark.parametrize("removed", [False, True])
def test_on_a_full_disk_processes_can_still_be_ended(launcher: Launcher, directory: Path, removed: bool) -> None:
    start(launcher, order(), "sleep", "1000")
    (directory / "status.json.new").symlink_to("/dev/full")
    os.kill(supervisor_of(launcher), signal.SIGKILL)
    until(lambda: running(launcher) == [])
    assert launcher.remove(NAME) if removed else launcher.stop(NAME)


def test_what_the_disk_refuses_at_a_start_is_said(launcher: Launcher, directory: Path) -> None:
    (directory / "book.json.new").symlink_to("/dev/full")
    with pytest.raises(LaunchError, match=r"i-1/web\.0 cannot be started: No space left on device"):
        start(launcher, order(), "sleep", "1000")


def open_files() -> set[str]:
    """Descriptors of this process, with what each is of."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        # The directory itself is one of them, and closed by now.
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{each.name} {each.readlink()}")
    return found


def test_a_machine_without_another_process_is_said_and_nothing_stays_open(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = open_files()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", none_left)
        with pytest.raises(LaunchError, match="cannot be started: Resource temporarily unavailable"):
            start(launcher, order(), "sleep", "1000")
        patched.setattr(os, "fork", none_left)
        # Of the supervisor as it is, what it does when it cannot fork: this process cannot be made one.
        told = _Supervisor.__new__(_Supervisor)._spawn()
    assert told == (None, "cannot fork: Resource temporarily unavailable")
    # What others had opened may be closed meanwhile.
    assert open_files() <= before


@pytest.mark.parametrize("name", ["book.json", "status.json"])
@pytest.mark.parametrize("content", ["", '{"revision": "1', "[]"])
def test_a_file_that_a_power_failure_cut_short_is_made_again(
    launcher: Launcher, directory: Path, name: str, content: str
) -> None:
    start(launcher, order(), "sleep", "1000")
    supervisor = supervisor_of(launcher)
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: running(launcher) == [])
    (directory / name).write_text(content)
    assert [process.name for process in launcher.find()] == [NAME]
    assert start(launcher, order(), "sleep", "1000").state is State.RUNNING


def test_disposal_ends_what_has_no_directory_any_more(launcher: Launcher, directory: Path) -> None:
    started = start(launcher, order(ports={"http": 0}), "sleep", "1000")
    shutil.rmtree(directory)
    assert f"process {started.pid} of i-1/web.0" in launcher.remains("i-1")
    inventory = LocalInventory(launcher)
    until(lambda: inventory.remove("i-1") and not inventory.remains("i-1"))


def test_directories_that_a_process_made_read_only_go_with_it(launcher: Launcher, directory: Path) -> None:
    start(launcher, order(), "sh", "-c", "mkdir -p a/b; touch a/b/file; chmod 500 a/b a; touch done; exec sleep 1000")
    until((launcher.work(NAME) / "done").exists)
    assert launcher.stop(NAME, wait=60)
    assert as_nobody_special(directory.parents[2], lambda: launcher.remove(NAME, wait=60))
    assert launcher.observe(NAME) is None


def test_a_link_in_the_place_of_its_directory_is_removed_and_not_followed(
    launcher: Launcher, directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    start(launcher, order(), "sleep", "1000")
    launcher.work(NAME).rmdir()
    launcher.work(NAME).symlink_to(tmp_path / "kept")
    assert launcher.remove(NAME, wait=60)
    assert (tmp_path / "kept" / "file").exists()


def as_nobody_special(owned: Path, call: Callable[[], bool]) -> bool:
    """What a call answers in a fork that has no privileges, where this process has them."""
    if os.geteuid() != 0:
        return call()
    for path in (owned, *owned.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    # The directories above are of this test, and closed.
    for above in [each for each in owned.parents if each.stat().st_uid == 0 and each.is_relative_to("/tmp")]:
        above.chmod(above.stat().st_mode | 0o111)
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os._exit(0 if call() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
