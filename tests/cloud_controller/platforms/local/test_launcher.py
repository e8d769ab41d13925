"""The launcher: adoption without duplicates, termination of whole trees, verified removal."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.local import processes
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.logs import LogChunk, read_log
from cloud_controller.platforms.local.orders import (
    LaunchError,
    Name,
    ProcessLimits,
    ProcessOrder,
    ProcessProgram,
    ProcessState,
    Restart,
    Running,
)
from cloud_controller.platforms.local.sandbox import Sandbox
from cloud_controller.platforms.local.stack_index import read_json, write_file
from tests.ports import free_port
from tests.waiting import until

NAME = Name("i-1", "web.0")
PATH = {"PATH": os.environ["PATH"]}


@pytest.fixture
def launcher(tmp_path: Path, sandbox: Sandbox | None) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "root", sandbox=sandbox, shared=True, log_segment=2000, log_segments=2)
    yield launcher
    for process in launcher.find():
        assert launcher.remove(process.name, wait=90)
    assert launcher.remains("i-1") == ()


def order(
    name: Name = NAME,
    *,
    revision: str = "1",
    tenant: str = "t",
    ports: dict[str, int] | None = None,
    limits: ProcessLimits | None = None,
    restart: Restart | None = None,
    grace: float = 5.0,
) -> ProcessOrder:
    return ProcessOrder(
        name,
        revision,
        Labels(name.instance, tenant, "svc", 1),
        ports=ports or {},
        limits=limits or ProcessLimits(),
        restart=restart or Restart(),
        grace=grace,
    )


def start(launcher: Launcher, wanted: ProcessOrder, *command: str, **environment: str) -> Running:
    return started(launcher, wanted, lambda _ports: ProcessProgram(command, {**PATH, **environment}))


def started(launcher: Launcher, wanted: ProcessOrder, program: Callable[[object], ProcessProgram]) -> Running:
    """Start with retries, like workers, while the previous process stops."""

    def attempt() -> Running | None:
        found = launcher.start(wanted, program)
        return None if found.state is ProcessState.STOPPING else found

    found = until(attempt, f"{wanted.name} is started")
    assert found is not None
    return found


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-u", "-c", code)


def log(launcher: Launcher, name: Name = NAME) -> bytes:
    return launcher.read_log(name).data


def test_a_second_start_adopts(launcher: Launcher, tmp_path: Path, sandbox: Sandbox | None) -> None:
    first = start(launcher, order(), "sleep", "1000")
    assert first.state is ProcessState.RUNNING
    again = start(Launcher(tmp_path / "root", sandbox=sandbox), order(), "sleep", "1000")
    assert again.pid == first.pid
    assert len(running(launcher)) == 1


def running(launcher: Launcher) -> list[int]:
    """Return the processes with the name's marker; a sandbox counts as one."""
    [value] = launcher.marker(NAME).values()
    found = [process for process, _ in processes.with_marker(value, processes.table().values())]
    firsts = {process.pid for process in found if process.parent in {each.pid for each in found}}
    isolated = any(each.isolated for each in launcher.find(instance=NAME.instance))
    return [process.pid for process in found if not isolated or process.pid not in firsts]


def test_concurrent_starts_start_one(launcher: Launcher) -> None:
    found: list[Running] = []
    threads = [
        threading.Thread(target=lambda: found.append(start(launcher, order(), "sleep", "1000"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(running(launcher)) == 1


def test_another_revision_replaces_and_keeps_port_and_directory(launcher: Launcher) -> None:
    wanted = order(ports={"http": 0})
    first = start(launcher, wanted, "sh", "-c", "echo kept > data; exec sleep 1000")
    data = launcher.work(NAME) / "data"
    until(lambda: data.exists() and data.read_text() == "kept\n")
    second = start(launcher, order(revision="2", ports={"http": 0}), "sleep", "1000")
    assert second.revision == "2"
    assert second.pid != first.pid
    assert second.ports == first.ports
    assert data.read_text() == "kept\n"
    assert len(running(launcher)) == 1


def test_the_environment_is_exact_and_in_no_command_line(launcher: Launcher, sandbox: Sandbox | None) -> None:
    start(launcher, order(), "sh", "-c", "env; exec sleep 1000", SECRET="s3cret")
    until(lambda: b"SECRET=s3cret" in log(launcher))
    names = {line.split(b"=")[0] for line in log(launcher).splitlines()}
    given = {b"PATH", b"SECRET", b"ARCHELON_PROCESS"} | ({b"HOME"} if sandbox else set())
    assert names - {b"PWD", b"_", b"SHLVL", b"OLDPWD"} == given
    assert not [line for line in map(command_line, processes.table()) if b"s3cret" in line]
    kept = [path for path in launcher.work(NAME).parent.iterdir() if path.is_file()]
    assert kept
    assert not [path for path in kept if b"s3cret" in path.read_bytes()]


def command_line(pid: int) -> bytes:
    """Return the command line of a process, empty if it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_the_whole_tree_ends(launcher: Launcher, sandbox: Sandbox | None) -> None:
    # A child that changes session and is orphaned, one that clears its environment, one that ignores SIGTERM.
    code = """
import os, signal, time
def daemonize(then):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            then()
        os._exit(0)
daemonize(lambda: os.execv('/bin/sleep', ['sleep', '1001']))
daemonize(lambda: os.execve('/bin/sleep', ['sleep', '1002'], {}))
def unkillable():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print('ready')
    while True: time.sleep(1000)
daemonize(unkillable)
time.sleep(1000)
"""
    start(launcher, order(grace=0.3), *python(code))
    supervisor = supervisor_of(launcher)
    # A sandbox adds its wrapper and its first process.
    number = 4 if sandbox is None else 6
    until(lambda: len(processes.descendants(supervisor, processes.table())) == number and b"ready" in log(launcher))
    tree = processes.descendants(supervisor, processes.table())
    assert launcher.stop(NAME, wait=90)
    assert not [process.pid for process in tree if processes.alive(process.pid, process.start)]
    found = launcher.observe(NAME)
    assert found is not None
    assert found.state is ProcessState.STOPPED


def supervisor_of(launcher: Launcher) -> int:
    return int(read_json(launcher.work(NAME).parent / "status.json")["supervisor"])


def test_a_process_inherits_no_descriptors(launcher: Launcher) -> None:
    """Its supervisor has the locks, orders and output of others."""
    start(launcher, order(Name("i-1", "db.0"), ports={"http": 0}), "sleep", "1000")
    code = "import os; print(*[each for each in range(256) if os.path.exists(f'/proc/self/fd/{each}')], 'all')"
    start(launcher, order(ports={"http": 0}), *python(code))
    until(lambda: b"all" in log(launcher))
    assert log(launcher) == b"0 1 2 all\n"


def test_a_killed_supervisors_process_dies_and_strays_are_killed_by_the_next_start(
    launcher: Launcher, sandbox: Sandbox | None
) -> None:
    start(launcher, order(), "sh", "-c", "setsid sleep 1001 & echo up; exec sleep 1000")
    until(lambda: b"up" in log(launcher) and len(running(launcher)) == (2 if sandbox is None else 1))
    os.kill(supervisor_of(launcher), signal.SIGKILL)
    # A sandbox ends completely.
    until(lambda: len(running(launcher)) == (1 if sandbox is None else 0))
    found = launcher.observe(NAME)
    assert found is not None
    assert (found.state, found.message) == (ProcessState.LOST, "its supervisor was killed")
    strays = running(launcher)
    again = start(launcher, order(), "sleep", "1000")
    assert running(launcher) == [again.pid]
    assert again.pid not in strays


def test_restarts_with_backoff_up_to_the_limit_and_keeps_the_status(launcher: Launcher) -> None:
    begun = time.monotonic()
    start(launcher, order(restart=Restart("always", limit=3, backoff=0.05)), "sh", "-c", "echo run; exit 7")
    until(lambda: is_in(launcher, ProcessState.FAILED))
    found = launcher.observe(NAME)
    assert found is not None
    assert (found.exit_status, found.restarts) == (7, 3)
    assert found.message == "exited with status 7; restarted 3 times, which is the limit"
    assert log(launcher) == b"run\n" * 4
    assert time.monotonic() - begun >= 0.05 + 0.1 + 0.2


def is_in(launcher: Launcher, state: ProcessState) -> bool:
    found = launcher.observe(NAME)
    return found is not None and found.state is state


@pytest.mark.parametrize(("code", "state"), [(0, ProcessState.EXITED), (3, ProcessState.FAILED)])
def test_an_exit_without_restart_is_reported(launcher: Launcher, code: int, state: ProcessState) -> None:
    start(launcher, order(), "sh", "-c", f"exit {code}")
    until(lambda: is_in(launcher, state))
    found = launcher.observe(NAME)
    assert found is not None
    assert (found.exit_status, found.message) == (code, f"exited with status {code}")


def test_a_missing_program_is_named(launcher: Launcher) -> None:
    start(launcher, order(), "no-such-program")
    until(lambda: is_in(launcher, ProcessState.FAILED))
    found = launcher.observe(NAME)
    assert found is not None
    assert found.exit_status == 127
    assert found.message == "cannot start 'no-such-program': No such file or directory"


def test_limits_bound_the_process(launcher: Launcher) -> None:
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CPU)); bytearray(1 << 30)"
    start(launcher, order(limits=ProcessLimits(memory=1 << 28, files=32, cpu=5)), *python(code))
    until(lambda: is_in(launcher, ProcessState.FAILED))
    assert log(launcher).startswith(b"(32, 32) (5, 5)\n")
    assert b"MemoryError" in log(launcher)


def two_in_a_row() -> range:
    """Return two adjacent ports that no other launcher of this machine uses."""
    first = free_port()
    while (second := free_port()) != first + 1:
        first = second
    return range(first, first + 2)


def test_ports_are_distinct_across_roots_and_released(launcher: Launcher, tmp_path: Path) -> None:
    range_of_two = two_in_a_row()
    one, two = Launcher(tmp_path / "a", ports=range_of_two), Launcher(tmp_path / "b", ports=range_of_two)
    first = start(one, order(ports={"http": 0}), "sleep", "1000")
    second = start(two, order(ports={"http": 0}), "sleep", "1000")
    try:
        assert {*first.ports.values(), *second.ports.values()} == set(range_of_two)
        with pytest.raises(LaunchError, match="no port is left for http between {} and {}".format(*range_of_two)):
            start(one, order(Name("i-1", "other"), ports={"http": 0}), "sleep", "1000")
    finally:
        for mine in (one, two):
            for process in mine.find():
                assert mine.remove(process.name, wait=90)
    assert one.remains("i-1") == two.remains("i-1") == ()


def test_a_port_in_use_is_refused(launcher: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port {number} \\(http\\) is taken"):
            start(launcher, order(ports={"http": number}), "sleep", "1000")


def test_the_log_is_rotated_and_can_be_followed(launcher: Launcher) -> None:
    start(
        launcher, order(), "sh", "-c", "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000"
    )
    followed, position, begin = b"", 0, None
    end = time.monotonic() + 90
    while not followed.endswith(b"line 499\n"):
        assert time.monotonic() < end
        chunk = launcher.read_log(NAME, position, limit=700)
        if begin is None and chunk.data:
            begin = chunk.start
        followed, position = followed + chunk.data, chunk.next
    whole = b"".join(b"line %d\n" % number for number in range(500))
    assert position == len(whole)
    assert begin is not None
    kept = sum(path.stat().st_size for path in (launcher.work(NAME).parent / "log").iterdir())
    assert kept <= 2 * (2000 + 65536)
    assert launcher.read_log(NAME, 0).start == len(whole) - kept or kept == len(whole)


def test_the_log_without_a_start_is_empty(launcher: Launcher, tmp_path: Path) -> None:
    assert launcher.read_log(NAME, 7) == LogChunk(b"", 7, 7)
    (tmp_path / "log").mkdir()
    assert read_log(tmp_path / "log", 0, 10) == LogChunk(b"", 0, 0)


def test_files_stay_inside(launcher: Launcher, tmp_path: Path) -> None:
    def with_file(path: str) -> Callable[[object], ProcessProgram]:
        return lambda _ports: ProcessProgram(("sleep", "1000"), PATH, {path: "x"})

    for path in ("../out", "/etc/out", "a/../../out"):
        with pytest.raises(LaunchError, match="leaves the process' directory"):
            launcher.start(order(), with_file(path))
    launcher.work(NAME).mkdir(exist_ok=True)
    (launcher.work(NAME) / "link").symlink_to(tmp_path)
    with pytest.raises(LaunchError, match="through a link"):
        launcher.start(order(), with_file("link/out"))
    (launcher.work(NAME) / "round").symlink_to("round")
    for path in ("link/made/out", "round/out"):
        with pytest.raises(LaunchError, match="through a link"):
            launcher.start(order(), with_file(path))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "made").exists()
    assert launcher.start(order(), with_file("conf/in")).up
    assert (launcher.work(NAME) / "conf/in").stat().st_mode & 0o777 == 0o600


def test_files_of_an_older_revision_are_removed(launcher: Launcher) -> None:
    for revision, path in (("1", "old"), ("2", "new")):
        started(
            launcher,
            order(revision=revision),
            lambda _p, path=path: ProcessProgram(("sleep", "1000"), PATH, {path: "x"}),
        )
    assert sorted(path.name for path in launcher.work(NAME).iterdir()) == ["new"]


def test_an_older_revisions_file_is_not_removed_through_a_link(launcher: Launcher, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    launcher.start(order(), lambda _ports: ProcessProgram(("sleep", "1000"), PATH, {"conf/file": "x"}))
    shutil.rmtree(launcher.work(NAME) / "conf")
    (launcher.work(NAME) / "conf").symlink_to(kept)
    started(launcher, order(revision="2"), lambda _ports: ProcessProgram(("sleep", "1000"), PATH))
    assert (kept / "file").exists()


def test_found_by_label(launcher: Launcher, sandbox: Sandbox | None) -> None:
    start(launcher, order(), "sleep", "1000")
    start(launcher, order(Name("i-2", "db.0"), tenant="other"), "sleep", "1000")
    assert [str(process.name) for process in launcher.find(instance="i-1")] == ["i-1/web.0"]
    assert [str(process.name) for process in launcher.find(tenant="other")] == ["i-2/db.0"]
    assert len(launcher.find(service="svc", generation=1)) == 2
    assert launcher.find(instance="i-3") == []
    left = launcher.remains("i-2")
    assert {line.split(" of ")[1] for line in left} == {"i-2/db.0"}
    # A sandbox has two: its wrapper and its first process.
    ours = ["process"] * (1 if sandbox is None else 2)
    assert [line.split(" ")[0] for line in left] == ["directory", *ours]


def test_remains_lists_a_process_without_a_directory(launcher: Launcher) -> None:
    started = start(launcher, order(), "sleep", "1000")
    supervisor = supervisor_of(launcher)
    shutil.rmtree(launcher.work(NAME).parent)
    assert f"process {started.pid} of i-1/web.0" in launcher.remains("i-1")
    os.kill(supervisor, signal.SIGTERM)
    until(lambda: launcher.remains("i-1") == ())


@pytest.mark.parametrize("bad", ["", "..", "a/b", "x" * 121, "-x"])
def test_names_that_could_leave_the_root_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="cannot name a process"):
        Name("i-1", bad)


def test_some_ports_are_never_allocated(tmp_path: Path) -> None:
    first = free_port()
    launcher = Launcher(tmp_path / "root", ports=range(first, first + 1), refused_ports=[first, 8888])
    for port, reason in ((80, "port 80 is a system port"), (8888, "port 8888 is this installation's own")):
        with pytest.raises(LaunchError, match=reason):
            start(launcher, order(ports={"http": port}), "sleep", "1000")
    with pytest.raises(LaunchError, match="no port is left for http"):
        start(launcher, order(ports={"http": 0}), "sleep", "1000")
    assert launcher.remove(NAME)


def test_without_a_sandbox_one_tenant_runs_at_a_time(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "root")
    other = Name("i-2", "db.0")
    try:
        start(launcher, order(), "sleep", "1000")
        with pytest.raises(LaunchError, match="another tenant's processes run here"):
            start(launcher, order(other, tenant="other"), "sleep", "1000")
        assert "another tenant's processes run here" in launcher.refusal("other")
        assert launcher.refusal("t") == ""
        assert start(launcher, order(Name("i-3", "web.0")), "sleep", "1000").state is ProcessState.RUNNING
        assert launcher.stop(NAME, wait=60)
        assert launcher.stop(Name("i-3", "web.0"), wait=60)
        assert start(launcher, order(other, tenant="other"), "sleep", "1000").state is ProcessState.RUNNING
    finally:
        for name in launcher.names():
            assert launcher.remove(name, wait=60)


def test_a_process_without_the_sandbox_is_restarted_in_it(tmp_path: Path, sandbox: Sandbox | None) -> None:
    before = Launcher(tmp_path / "root")
    first = start(before, order(), "sleep", "1000")
    after = Launcher(tmp_path / "root", sandbox=sandbox)
    again = start(after, order(), "sleep", "1000")
    assert (again.pid != first.pid) == (sandbox is not None) == again.isolated
    assert after.remove(NAME, wait=60)


def test_a_sandboxed_process_cannot_forge_a_marker(launcher: Launcher, sandbox: Sandbox | None) -> None:
    [(variable, value)] = launcher.marker(Name("i-2", "db.0")).items()
    start(launcher, order(), "env", f"{variable}={value}", "sh", "-c", "echo up; sleep 1000; true")
    until(lambda: b"up" in log(launcher))
    assert (launcher.remains("i-2") == ()) == (sandbox is not None)


def test_loaded_libraries_affect_only_the_tenants_program(launcher: Launcher) -> None:
    # Any other program that loads the library would report it, too.
    start(launcher, order(), "sh", "-c", "exec true", LD_PRELOAD="/no/such/library.so")
    until(lambda: is_in(launcher, ProcessState.EXITED))
    assert log(launcher).count(b"/no/such/library.so") == 2


def test_no_file_is_written_through_a_concurrent_link(tmp_path: Path) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    for directory in (work, elsewhere):
        directory.mkdir()
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                (work / "a").rename(work / f"kept-{time.monotonic_ns()}")
                (work / "a").symlink_to(elsewhere)
                (work / "a").unlink()

    thread = threading.Thread(target=swap)
    thread.start()
    refused = 0
    try:
        for _ in range(3000):
            try:
                write_file(work, "a/b", "text")
            except (LaunchError, OSError):
                refused += 1
    finally:
        over.set()
        thread.join()
    assert 0 < refused < 3000
    assert list(elsewhere.iterdir()) == []


def test_nothing_is_attached_to_a_process_that_is_being_removed(launcher: Launcher) -> None:
    """Without its index nobody knows whether it has a sandbox."""
    start(launcher, order(), "sleep", "1000")
    (launcher.instances / NAME.instance / NAME.process / "book.json").unlink()
    with pytest.raises(LaunchError, match="is being removed"), launcher.attached(NAME, ("true",), {}):
        pass
