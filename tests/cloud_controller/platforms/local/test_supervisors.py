"""Supervisors that several processes share: each ends, restarts and stops by itself, and none is lost or doubled by a kill."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_controller.platforms.local import launcher as module
from cloud_controller.platforms.local import processes, supervisors
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.orders import LaunchError, Name, ProcessProgram, ProcessState, Restart, Running
from cloud_controller.platforms.local.sandbox import Sandbox
from cloud_controller.platforms.local.stack_index import read_json, request_stop
from tests.waiting import until

from .test_launcher import order, start

NAMES = [Name(f"i-{number}", "web.0") for number in range(3)]
ALWAYS = Restart("always", limit=3, backoff=0.05)


pytestmark = pytest.mark.parametrize("sandbox", ["sandbox"], indirect=True)


@pytest.fixture
def launcher(tmp_path: Path, sandbox: Sandbox) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "root", sandbox=sandbox)
    yield launcher
    for process in launcher.find():
        assert launcher.remove(process.name, wait=60)


def supervisor(launcher: Launcher, name: Name) -> int:
    return int(read_json(launcher.work(name).parent / "status.json")["supervisor"])


def found(launcher: Launcher, name: Name) -> Running:
    running = launcher.observe(name)
    assert running is not None
    return running


def test_tenants_share_one_and_each_process_ends_by_itself(launcher: Launcher) -> None:
    first, other, third = NAMES
    start(launcher, order(first, tenant="a", restart=ALWAYS), "sleep", "1000")
    second = start(launcher, order(other, tenant="b"), "sleep", "1000")
    start(launcher, order(third, tenant="a"), "sh", "-c", "exit 3")
    assert len({supervisor(launcher, name) for name in NAMES}) == 1
    until(lambda: found(launcher, third).state is ProcessState.FAILED)
    pid = found(launcher, first).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: found(launcher, first).pid not in (None, pid))
    assert found(launcher, first).restarts == 1
    assert launcher.stop(first, wait=60)
    assert [found(launcher, name).state for name in NAMES] == [
        ProcessState.STOPPED,
        ProcessState.RUNNING,
        ProcessState.FAILED,
    ]
    assert found(launcher, other).pid == second.pid
    # What has ended can be started again in the same one.
    start(launcher, order(first, tenant="a"), "sleep", "1000")
    assert supervisor(launcher, first) == supervisor(launcher, other)


@pytest.mark.crash
def test_all_are_started_again_once_after_its_death(launcher: Launcher) -> None:
    before = [start(launcher, order(name), "sleep", "1000") for name in NAMES]
    os.kill(supervisor(launcher, NAMES[0]), signal.SIGKILL)
    until(lambda: all(found(launcher, name).state is ProcessState.LOST for name in NAMES))
    again = [start(launcher, order(name), "sleep", "1000") for name in NAMES]
    assert not {each.pid for each in before} & {each.pid for each in again}
    for name, running in zip(NAMES, again, strict=True):
        [marker] = launcher.marker(name).values()
        ours = {process.pid for process, _ in processes.with_marker(marker, processes.table().values())}
        assert running.pid in ours
        assert len(ours) == 2  # a sandbox has two: its wrapper and its first process


def test_a_full_one_is_followed_by_another_and_takes_more_once_one_has_ended(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "_SHARED", 2)
    for name in NAMES:
        start(launcher, order(name), "sleep", "1000")
    full, same, next_one = (supervisor(launcher, name) for name in NAMES)
    assert full == same != next_one
    assert launcher.stop(NAMES[0], wait=60)
    assert launcher.stop(NAMES[2], wait=60)
    start(launcher, order(NAMES[0]), "sleep", "1000")
    assert supervisor(launcher, NAMES[0]) == full


def test_it_outlives_its_launcher_until_its_last_process_has_ended(tmp_path: Path, sandbox: Sandbox) -> None:
    launcher = Launcher(tmp_path / "root", sandbox=sandbox)
    begun = start(launcher, order(NAMES[0]), "sleep", "1000")
    del launcher
    later = Launcher(tmp_path / "root", sandbox=sandbox)
    pid = supervisor(later, NAMES[0])
    # Its socket is closed, so it takes no more.
    start(later, order(NAMES[1]), "sleep", "1000")
    assert supervisor(later, NAMES[1]) != pid
    assert found(later, NAMES[0]).pid == begun.pid
    for name in NAMES[:2]:
        assert later.remove(name, wait=60)
    until(lambda: processes.read(pid) is None)


@pytest.mark.crash
def test_one_that_hangs_is_replaced(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    start(launcher, order(NAMES[0], grace=0.0), "sleep", "1000")
    hanging = supervisor(launcher, NAMES[0])
    os.kill(hanging, signal.SIGSTOP)
    monkeypatch.setattr(supervisors, "_READY", 0.1)
    with pytest.raises(LaunchError, match=r"did not start it; see .*/root/supervisors\.err"):
        start(launcher, order(NAMES[1], grace=0.0), "sleep", "1000")
    monkeypatch.undo()
    start(launcher, order(NAMES[2]), "sleep", "1000")
    assert supervisor(launcher, NAMES[2]) != hanging
    monkeypatch.setattr(module, "_OVERDUE", 0.1)
    assert launcher.remove(NAMES[0], wait=60)
    assert processes.read(hanging) is None


@pytest.mark.crash
def test_an_old_request_to_stop_ends_nothing_but_its_process(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its launcher was killed before it could tell the supervisor, while the process waited for its next start."""
    waiting, other = NAMES[:2]
    start(launcher, order(waiting, restart=Restart("always", limit=3, backoff=1000.0), grace=0.0), "false")
    kept = start(launcher, order(other), "sleep", "1000")
    until(lambda: found(launcher, waiting).state is ProcessState.RESTARTING)
    request_stop(launcher.work(waiting).parent)
    monkeypatch.setattr(module, "_OVERDUE", -1.0)
    monkeypatch.setattr(module, "_REPEATED", 60.0)
    assert launcher.stop(waiting, wait=60)
    assert found(launcher, other).pid == kept.pid
    assert (
        supervisor(launcher, other) == supervisor(launcher, waiting)
        or found(launcher, waiting).state is ProcessState.STOPPED
    )


def test_sandboxes_of_our_own_user_have_supervisors_of_their_own(tmp_path: Path, sandbox: Sandbox) -> None:
    """A process can tamper with the first process of such a sandbox."""
    launcher = Launcher(tmp_path / "root", sandbox=dataclasses.replace(sandbox, root=False))
    for name in NAMES[:2]:
        assert start(launcher, order(name), "sleep", "1000").isolated
    pids = [supervisor(launcher, name) for name in NAMES[:2]]
    assert len(set(pids)) == 2
    for name in NAMES[:2]:
        assert launcher.remove(name, wait=60)
    until(lambda: not any(map(processes.read, pids)))


def test_many_ports_of_one_process_take_no_descriptors_of_others(launcher: Launcher) -> None:
    start(launcher, order(NAMES[0]), "sleep", "1000")
    start(launcher, order(NAMES[1], ports={f"p{number}": 0 for number in range(100)}), "sleep", "1000")
    assert supervisor(launcher, NAMES[0]) != supervisor(launcher, NAMES[1])


def test_a_supervisor_without_free_descriptors_goes_on(launcher: Launcher) -> None:
    kept = start(launcher, order(NAMES[0]), "sleep", "1000")
    pid = supervisor(launcher, NAMES[0])
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    for spare in (1, 3):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files + spare, limits[1]))
        with pytest.raises(LaunchError, match="did not start it"):
            start(launcher, order(NAMES[1]), "sleep", "1000")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    start(launcher, order(NAMES[1]), "sleep", "1000")
    assert found(launcher, NAMES[0]).pid == kept.pid
    assert supervisor(launcher, NAMES[1]) == pid


def test_much_output_of_one_process_stops_no_other(launcher: Launcher) -> None:
    start(launcher, order(NAMES[0]), "sh", "-c", "head -c 30000000 /dev/zero; touch done; exec sleep 1000")
    start(launcher, order(NAMES[1]), "sleep", "1000")
    until((launcher.work(NAMES[0]) / "done").exists)
    assert supervisor(launcher, NAMES[0]) == supervisor(launcher, NAMES[1])


@pytest.mark.crash
def test_an_error_in_it_ends_one_process_only(launcher: Launcher) -> None:
    """A process whose order cannot be read, since its policy of restarts is missing."""
    other = start(launcher, order(NAMES[0]), "sleep", "1000")
    name = NAMES[1]
    odd = order(name, restart=Restart("always", limit=3, backoff="soon"))  # type: ignore[arg-type]
    launcher.start(odd, lambda _: ProcessProgram(("sh", "-c", "exit 1"), {"PATH": os.environ["PATH"]}))
    until(lambda: found(launcher, name).state is ProcessState.LOST)
    assert found(launcher, NAMES[0]).pid == other.pid
    assert "Traceback" in (launcher.instances.parent / "supervisors.err").read_text()


@pytest.mark.crash
def test_what_a_killed_sandbox_leaves_is_ended(tmp_path: Path, sandbox: Sandbox) -> None:
    """As bubblewrap does if it is killed before its child has asked the kernel to end with it."""
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\nsleep 1000 &\nexit 1\n")
    program.chmod(0o755)
    launcher = Launcher(tmp_path / "root", sandbox=dataclasses.replace(sandbox, bwrap=str(program)))
    launcher.start(order(NAMES[0]), lambda _: ProcessProgram(("true",)))
    until(lambda: found(launcher, NAMES[0]).state is ProcessState.FAILED)
    assert found(launcher, NAMES[0]).message == "its sandbox cannot be created; see its log"
    [marker] = launcher.marker(NAMES[0]).values()
    assert processes.with_marker(marker, processes.table().values()) == []
    assert launcher.remove(NAMES[0], wait=60)
