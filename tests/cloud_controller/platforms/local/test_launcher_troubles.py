"""The launcher under failures: a full disk, failing forks, files truncated by a power failure.

`/dev/full` simulates a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from archelon_core.log_segments import LogSegments
from cloud_controller.platforms.local import processes
from cloud_controller.platforms.local.applications import LocalApplications
from cloud_controller.platforms.local.inventory import LocalInventory
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.logs import read_log
from cloud_controller.platforms.local.orders import LaunchError, Name, ProcessState, Restart
from cloud_controller.platforms.local.sandbox import Sandbox
from cloud_controller.platforms.local.stack_index import INDEX_FILE
from cloud_controller.platforms.local.supervisor import _Process
from cloud_controller.platforms.local.supervisors import _FORKS
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


def test_a_process_continues_when_its_output_cannot_be_written(launcher: Launcher, directory: Path) -> None:
    (directory / "log").mkdir()
    (directory / "log" / "0").symlink_to("/dev/full")
    # More than the pipe's capacity: it finishes only if the supervisor continues to read.
    start(launcher, order(), "sh", "-c", "head -c 300000 /dev/zero; touch done; exec sleep 1000")
    until((launcher.work(NAME) / "done").exists)
    assert is_in(launcher, ProcessState.RUNNING)


def test_log_positions_stay_valid_after_a_partial_write(tmp_path: Path) -> None:
    log = LogSegments(str(tmp_path), segment=1000, kept=3)
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


def test_a_failed_status_write_is_retried(launcher: Launcher, directory: Path) -> None:
    first = start(launcher, order(restart=Restart("always", limit=3, backoff=0.05)), "sleep", "1000")
    assert first.pid is not None
    (directory / "status.json.new").symlink_to("/dev/full")
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: running(launcher) not in ([], [first.pid]))
    (directory / "status.json.new").unlink()
    until(lambda: (found := launcher.observe(NAME)) is not None and [found.pid] == running(launcher))
    found = launcher.observe(NAME)
    assert found is not None
    assert (found.state, found.restarts) == (ProcessState.RUNNING, 1)


@pytest.mark.parametrize("removed", [False, True])
def test_processes_can_be_stopped_on_a_full_disk(launcher: Launcher, directory: Path, removed: bool) -> None:
    start(launcher, order(), "sleep", "1000")
    (directory / "status.json.new").symlink_to("/dev/full")
    os.kill(supervisor_of(launcher), signal.SIGKILL)
    until(lambda: running(launcher) == [])
    assert launcher.remove(NAME) if removed else launcher.stop(NAME)


def test_a_full_disk_at_the_start_is_reported(launcher: Launcher, directory: Path) -> None:
    (directory / f"{INDEX_FILE}.new").symlink_to("/dev/full")
    with pytest.raises(LaunchError, match=r"i-1/web\.0 cannot be started: No space left on device"):
        start(launcher, order(), "sleep", "1000")


def open_files() -> set[str]:
    """Return this process' descriptors with their targets."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        # The listing's own descriptor is closed by now.
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{each.name} {each.readlink()}")
    return found


def test_failing_forks_are_reported_and_leave_nothing_open(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = open_files()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", fail)
        _FORKS.close()
        with pytest.raises(LaunchError, match="cannot be started: Resource temporarily unavailable"):
            start(launcher, order(), "sleep", "1000")
        patched.setattr(os, "fork", fail)
        # Called on an uninitialized supervisor, since this process cannot become one.
        with pytest.raises(StopIteration) as stopped:
            next(_Process.__new__(_Process)._spawn())
    assert stopped.value.value == "cannot fork: Resource temporarily unavailable"
    # Other open files may have been closed meanwhile.
    assert open_files() <= before


@pytest.mark.crash
@pytest.mark.parametrize("point", ["supervisor ordered", "order sent"])
def test_a_killed_fork_server_is_replaced_and_nothing_is_started_twice(tmp_path: Path, point: str) -> None:
    def kill_before(name: str) -> None:
        if name == point and _FORKS.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(_FORKS.pid, signal.SIGKILL)

    launcher = Launcher(tmp_path / "root", shared=True, checkpoint=kill_before)
    try:
        for number in range(3):
            name = Name("i-1", f"web.{number}")
            first = start(launcher, order(name), "sleep", "1000")
            assert start(launcher, order(name), "sleep", "1000").pid == first.pid
        left = launcher.remains("i-1")
        assert sorted(line.split()[0] for line in left) == ["directory"] * 3 + ["process"] * 3
    finally:
        for process in launcher.find():
            assert launcher.remove(process.name, wait=60)
    assert launcher.remains("i-1") == ()


def test_the_process_table_is_searched_only_after_a_crash(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox | None
) -> None:
    searches: list[str] = []
    search = processes.marked
    monkeypatch.setattr(processes, "marked", lambda prefix: searches.append(prefix) or search(prefix))
    start(launcher, order(), "sleep", "1000")
    assert searches == []
    assert launcher.stop(NAME, wait=60)
    # Without a sandbox, a command that was attached to the process may be left.
    assert (searches == []) == (sandbox is not None)
    start(launcher, order(), "sleep", "1000")
    os.kill(supervisor_of(launcher), signal.SIGKILL)
    until(lambda: is_in(launcher, ProcessState.LOST))
    searches.clear()
    start(launcher, order(), "sleep", "1000")
    assert searches


def test_concurrent_searches_share_one_that_began_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, lock, asked, go = processes._Scan(), threading.Lock(), threading.Semaphore(0), threading.Semaphore(0)
    runs: list[int] = []

    class Turns:
        def __enter__(self) -> None:
            asked.release()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    def run() -> Iterator[tuple[int, str]]:
        runs.append(len(runs))
        go.acquire()
        yield runs[-1], "marker"

    monkeypatch.setattr(scan, "_lock", Turns())
    monkeypatch.setattr(scan, "_run", run)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(scan.result)
        until(lambda: runs)
        others = [pool.submit(scan.result) for _ in range(3)]
        for _ in range(4):
            asked.acquire()
        go.release(2)
        assert first.result()[0][0] == 0
        assert {each.result()[0][0] for each in others} == {1}
    assert runs == [0, 1]


@pytest.mark.parametrize("name", [INDEX_FILE, "status.json"])
@pytest.mark.parametrize("content", ["", '{"revision": "1', "[]"])
def test_a_truncated_file_is_recreated(launcher: Launcher, directory: Path, name: str, content: str) -> None:
    start(launcher, order(), "sleep", "1000")
    supervisor = supervisor_of(launcher)
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: running(launcher) == [])
    (directory / name).write_text(content)
    assert [process.name for process in launcher.find()] == [NAME]
    assert start(launcher, order(), "sleep", "1000").state is ProcessState.RUNNING


def test_disposal_removes_a_process_without_a_directory(launcher: Launcher, directory: Path) -> None:
    started = start(launcher, order(ports={"http": 0}), "sleep", "1000")
    shutil.rmtree(directory)
    assert f"process {started.pid} of i-1/web.0" in launcher.remains("i-1")
    inventory = LocalInventory(launcher, LocalApplications(launcher))
    until(lambda: inventory.remove("i-1") and not inventory.remains("i-1"))


def test_read_only_directories_of_a_process_are_removed(launcher: Launcher, directory: Path) -> None:
    start(launcher, order(), "sh", "-c", "mkdir -p a/b; touch a/b/file; chmod 500 a/b a; touch done; exec sleep 1000")
    until((launcher.work(NAME) / "done").exists)
    assert launcher.stop(NAME, wait=60)
    assert as_unprivileged(directory.parents[2], lambda: launcher.remove(NAME, wait=60))
    assert launcher.observe(NAME) is None


def test_a_link_in_place_of_the_directory_is_not_followed(launcher: Launcher, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    start(launcher, order(), "sleep", "1000")
    launcher.work(NAME).rmdir()
    launcher.work(NAME).symlink_to(tmp_path / "kept")
    assert launcher.remove(NAME, wait=60)
    assert (tmp_path / "kept" / "file").exists()


def as_unprivileged(owned: Path, call: Callable[[], bool]) -> bool:
    """Return the result of a call, in an unprivileged fork if this process is root."""
    if os.geteuid() != 0:
        return call()
    for path in (owned, *owned.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    # Open up this test's own parent directories.
    for parent in [each for each in owned.parents if each.stat().st_uid == 0 and each.is_relative_to("/tmp")]:
        parent.chmod(parent.stat().st_mode | 0o111)
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os._exit(0 if call() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
