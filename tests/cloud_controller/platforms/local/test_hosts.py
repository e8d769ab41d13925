"""Hosts, each of which serves the orchestrators of many instances; with a fake of the program."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bundles
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import ApplicationOrder, ApplicationState, Change, DeployError
from cloud_controller.platforms.local import hosts as module
from cloud_controller.platforms.local import processes, stack_index
from cloud_controller.platforms.local.applications import LocalApplications
from cloud_controller.platforms.local.hosts import Hosts
from cloud_controller.platforms.local.inventory import LocalInventory
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.orders import HOSTS, Name, ProcessState
from cloud_controller.platforms.local.sandbox import Sandbox, detect_sandbox
from cloud_controller.platforms.local.watcher import LocalWatcher
from tests.conftest import missing
from tests.waiting import until

from . import fake_host

#: Fails as long as the file `fails` is beside it.
CODE = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print('runs', os.path.basename(os.path.dirname(__file__)), flush=True)
if os.path.exists(os.path.join(os.path.dirname(__file__), 'fails')):
    sys.exit(4)
http.server.HTTPServer((os.environ['HOST'], int(os.environ['PORT'])), http.server.BaseHTTPRequestHandler).serve_forever()
"""


class Bench:
    """A platform's applications whose hosts are fakes."""

    def __init__(
        self, directory: Path, *, per_host: int = 1000, shared: bool = True, sandbox: Sandbox | None = None
    ) -> None:
        self.root = directory / "root"
        self.bundles = directory / "bundles"
        self.bundles.mkdir(exist_ok=True)
        self.launcher = Launcher(self.root, shared=shared, sandbox=sandbox)
        self.hosts = Hosts(self.launcher, program=(sys.executable, "-I", fake_host.__file__), per_host=per_host)
        runner = (sys.executable, "-I")
        self.applications = LocalApplications(self.launcher, hosts=self.hosts, runner=runner)
        self.inventory = LocalInventory(self.launcher, self.applications)

    def order(self, instance: str, bundle: str = "plain", *, tenant: str = "t", **more: Any) -> ApplicationOrder:
        """An order of a bundle; those whose names do not begin with `plain` have code."""
        directory = self.bundles / bundle
        if not directory.exists():
            names = ["service.yaml", "__main__.py", *([] if bundle.startswith("plain") else ["orchestrator.py"])]
            bundles.unpack(bundles.pack_files({n: bundles.PackedFile(CODE.encode()) for n in names}), directory)
        environment = {"TOKEN": f"secret of {instance}"}
        return ApplicationOrder(
            Labels(instance, tenant, "svc", 1), bundle=str(directory), environment=environment, **more
        )

    def run(self, *orders: ApplicationOrder) -> list[ApplicationState]:
        """Start applications as a worker does, until they are active."""
        found = []
        for order in orders:
            self.applications.start(order)

            def active(order: ApplicationOrder = order) -> ApplicationState | None:
                state = self.applications.state(order.labels.instance)
                if state is None or (state.state == "inactive" and not state.message):
                    state = self.applications.start(order)
                return state if state.state == "active" else None

            state = until(active, f"{order.labels.instance} is active")
            assert state is not None
            found.append(state)
        return found

    def move(self, order: ApplicationOrder) -> ApplicationState:
        """Start an application as ordered anew, until it is."""
        until(lambda: "is stopping" not in self.applications.start(order).message)
        return self.run(order)[0]

    def remove(self, *instances: str) -> None:
        for instance in instances:
            until(lambda instance=instance: self.applications.remove(instance))  # type: ignore[misc]
            assert self.applications.remains(instance) == ()

    def host(self, instance: str) -> str:
        found = self.launcher.observe(Name(instance, "orchestrator"))
        assert found is not None
        return found.host

    def pid(self, instance: str) -> int:
        found = self.launcher.observe(Name(instance, "orchestrator"))
        assert found is not None
        assert found.pid is not None
        return found.pid

    def all_hosts(self) -> list[str]:
        return [name.process for name in self.launcher.names(HOSTS)]

    def log(self, instance: str, since: int = 0) -> bytes:
        data = b""
        while (chunk := self.applications.read_log(instance, since)).data:
            data += chunk.data
            since = chunk.next
        return data

    def end(self) -> None:
        for instance in {name.instance for name in self.launcher.names()} - {HOSTS}:
            self.remove(instance)
        for host in self.all_hosts():
            assert self.launcher.remove(Name(HOSTS, host), wait=60)
        assert not self.launcher.names()
        assert self.launcher.remains(HOSTS) == ()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**how: Any) -> Bench:
        made.append(Bench(tmp_path, **how))
        return made[-1]

    yield make
    for bench in made[:1]:
        bench.end()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


def test_bundles_without_code_share_a_host(bench: Bench) -> None:
    first, second = bench.run(bench.order("i-1", tenant="t"), bench.order("i-2", "plain-2", tenant="u"))
    assert bench.host("i-1") == bench.host("i-2") == "shared-0"
    assert bench.pid("i-1") == bench.pid("i-2")
    assert first.url.removesuffix("/i-1/") == second.url.removesuffix("/i-2/")
    until(lambda: bench.log("i-1") == b"serving i-1 of 13\n" and bench.log("i-2") == b"serving i-2 of 13\n")
    [file] = bench.root.glob("instances/hosts/*/work/orders/i-1.json")
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["environment"]["TOKEN"] == "secret of i-1"
    assert bench.inventory.objects("i-1") == ["process i-1/orchestrator"]
    assert set(bench.inventory.instances("")) == {"i-1", "i-2"}
    pid = bench.pid("i-2")
    bench.remove("i-1")
    until(lambda: bench.inventory.remove("i-2"))
    assert [each.name for each in bench.root.glob("instances/*")] == [HOSTS]
    assert not [*bench.root.glob("instances/hosts/shared-0/work/*/*"), *bench.root.glob("instances/hosts/*/members/*")]
    bench.run(bench.order("i-3"))
    assert bench.pid("i-3") == pid, "the shared host stays for the next"


def test_a_full_host_is_followed_by_another(make: Callable[..., Bench]) -> None:
    bench = make(per_host=2)
    bench.run(*(bench.order(f"i-{n}") for n in range(3)))
    assert [bench.host(f"i-{n}") for n in range(3)] == ["shared-0", "shared-0", "shared-1"]
    bench.remove("i-0")
    bench.run(bench.order("i-2"), bench.order("i-3"))
    assert [bench.host("i-2"), bench.host("i-3")] == ["shared-1", "shared-0"]
    bench.remove("i-2")
    assert bench.all_hosts() == ["shared-0"]


def test_bundles_with_code_have_a_host_for_each_tenant_and_bundle(bench: Bench) -> None:
    first, second, *_ = bench.run(
        bench.order("i-1", "code"),
        bench.order("i-2", "code"),
        bench.order("i-3", "code", tenant="u"),
        bench.order("i-4", "code-2"),
    )
    assert bench.host("i-1") == bench.host("i-2")
    assert len({bench.host(f"i-{n}") for n in range(1, 5)}) == 3
    assert first.url != second.url
    found = bench.launcher.observe(Name(HOSTS, bench.host("i-3")))
    assert found is not None
    assert found.labels is not None
    assert found.labels.tenant == "u"
    kept = bench.host("i-1")
    bench.remove("i-4", "i-1", "i-3")
    assert bench.all_hosts() == [kept]
    assert bench.run(bench.order("i-2", "code"))[0].url == second.url
    bench.remove("i-2")
    assert bench.launcher.names() == []


def test_the_last_that_stops_stops_its_host(bench: Bench) -> None:
    orders = [bench.order("i-1", "code"), bench.order("i-2", "code")]
    before = bench.run(*orders)
    host = Name(HOSTS, bench.host("i-1"))
    until(lambda: bench.log("i-1"), "it runs")
    until(lambda: bench.applications.stop("i-1"))
    assert bench.applications.state("i-1") == ApplicationState("inactive", "", before[0].url)
    assert bench.run(orders[1]) == before[1:]
    until(lambda: bench.applications.stop("i-2"))
    until(lambda: (found := bench.launcher.observe(host)) and not found.up)
    assert bench.run(*orders) == before
    until(lambda: bench.log("i-1") == b"runs code\n" * 2)


@pytest.mark.parametrize("way", [["code", "code-2"], ["plain", "code"], ["code", "plain"]])
def test_another_bundle_moves_it_to_another_host(bench: Bench, way: list[str]) -> None:
    bench.run(bench.order("i-1", way[0]))
    before = bench.host("i-1")
    until(lambda: bench.log("i-1"))
    first = bench.log("i-1")
    bench.move(bench.order("i-1", way[1]))
    assert before != bench.host("i-1")
    assert before in ("shared-0", *bench.all_hosts()) if way[0] == "plain" else before not in bench.all_hosts()
    expected = (
        b"runs code-2\n" if way[1] == "code-2" else b"runs code\n" if way[1] == "code" else b"serving i-1 of 13\n"
    )
    until(lambda: bench.log("i-1") == first + expected)
    assert bench.log("i-1", len(first)) == expected, "the positions continue"


def test_one_that_asks_for_it_has_a_process_of_its_own(bench: Bench) -> None:
    bench.run(bench.order("i-1"))
    first = until(lambda: bench.log("i-1"))
    own = bench.order("i-1", hosting="own")
    state = bench.move(own)
    assert bench.host("i-1") == ""
    assert "/i-1/" not in state.url
    until(lambda: bench.log("i-1") == first + b"runs plain\n")
    assert bench.move(bench.order("i-1")).url.endswith("/i-1/")
    assert bench.host("i-1") == "shared-0"
    until(lambda: bench.log("i-1") == first + b"runs plain\n" + b"serving i-1 of 13\n")


def test_what_has_failed_is_started_again_when_asked(bench: Bench) -> None:
    order = bench.order("i-1", "code")
    (bench.bundles / "code" / "fails").touch()
    bench.applications.start(order)
    failed = ("error", "exited with status 4")
    until(lambda: (found := bench.applications.state("i-1")) and (found.state, found.message) == failed)
    (bench.bundles / "code" / "fails").unlink()
    bench.applications.start(order)
    bench.run(order)


def test_a_killed_host_serves_all_again(bench: Bench) -> None:
    orders = [bench.order("i-1"), bench.order("i-2")]
    before = bench.run(*orders)
    pid = bench.pid("i-1")
    os.kill(pid, signal.SIGKILL)
    until(lambda: bench.launcher.observe(Name(HOSTS, "shared-0")).pid not in (None, pid))  # type: ignore[union-attr]
    until(lambda: [bench.applications.state(each) for each in ("i-1", "i-2")] == before)
    assert bench.pid("i-1") == bench.pid("i-2")


def test_one_that_its_host_does_not_end_ends_with_the_host(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [bench.order("i-1", "code"), bench.order("i-2", "code")]
    bench.run(*orders)
    for name in ("_OVERDUE", "_UNREPORTED"):
        monkeypatch.setattr(module, name, 0.0)
    os.kill(bench.pid("i-1"), signal.SIGSTOP)
    bench.remove("i-1")
    bench.run(orders[1])


def test_a_host_that_ends_is_reported(bench: Bench) -> None:
    orders = [bench.order("i-1"), bench.order("i-2")]
    bench.run(*orders)
    changes: list[Change] = []
    expected = [Change("application", "i-1"), Change("application", "i-2")]
    watcher = LocalWatcher(bench.launcher, chance=lambda: 0.0)
    try:
        watcher.follow(changes.append)
        until(lambda: changes == expected, "the first look reports what runs")
        status = json.loads((bench.launcher.instances / HOSTS / "shared-0" / "status.json").read_text())
        changes.clear()
        os.kill(status["supervisor"], signal.SIGKILL)
        until(lambda: changes == expected)
    finally:
        watcher.close()
    state = bench.applications.state("i-1")
    assert state is not None
    assert state.state == "error"
    assert "its supervisor was killed" in state.message
    bench.applications.start(orders[0])
    bench.run(*orders)


def test_one_tenant_at_a_time_without_a_sandbox(make: Callable[..., Bench]) -> None:
    bench = make(shared=False)
    # The shared host is nobody's, but has the secrets of those that it serves.
    bench.run(bench.order("i-1", tenant="t"))
    for bundle in ("plain", "code"):
        with pytest.raises(DeployError, match="another tenant's processes run here"):
            bench.applications.start(bench.order("i-2", bundle, tenant="u"))
    bench.run(bench.order("i-3", "code", tenant="t"))
    bench.remove("i-2", "i-3")
    until(lambda: bench.applications.stop("i-1"))
    bench.run(bench.order("i-4", "code", tenant="u"))
    with pytest.raises(DeployError, match="another tenant's processes run here"):
        bench.applications.start(bench.order("i-1", tenant="t"))


def test_links_of_a_hostile_process_are_not_followed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [bench.order("i-1", "code"), bench.order("i-2", "code")]
    bench.run(*orders)
    work = bench.launcher.work(Name(HOSTS, bench.host("i-1")))
    kept = tmp_path / "kept"
    for directory in ("logs/i-1", "orders", "states"):
        (kept / directory).mkdir(parents=True)
    for file in ("logs/i-1/0", "orders/i-1.json", "states/i-1.json"):
        (kept / file).write_text("another's")
    os.kill(bench.pid("i-1"), signal.SIGSTOP)
    for directory in ("logs", "orders", "states"):
        shutil.move(work / directory, tmp_path / f"old-{directory}")
        (work / directory).symlink_to(kept / directory)
    (work / "host.sock").unlink()
    (work / "host.sock").symlink_to(kept / "absent")
    assert bench.log("i-1") == b""
    state = bench.applications.state("i-1")
    assert state is not None
    assert (state.state, state.message) == ("inactive", ""), "it has no order that could be read"
    with pytest.raises(DeployError, match="through a link"):
        bench.applications.start(orders[0])
    os.kill(bench.pid("i-1"), signal.SIGCONT)
    assert not bench.applications.remove("i-1"), "it still listens, although no state is reported"
    monkeypatch.setattr(module, "_OVERDUE", 0.0)
    bench.remove("i-1", "i-2")
    assert {each.read_text() for each in kept.rglob("*") if each.is_file()} == {"another's"}


@pytest.mark.parametrize("obstacle", ["socket", "directory"])
def test_a_hostile_process_does_not_keep_itself_from_being_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    bench.run(bench.order("i-1", "code"))
    host = Name(HOSTS, bench.host("i-1"))
    work = bench.launcher.work(host)
    with contextlib.ExitStack() as stack:
        if obstacle == "socket":
            (work / "host.sock").unlink()
            other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            directory = os.open(work, os.O_RDONLY)
            stack.callback(os.close, directory)
            # The path of a socket is limited to 107 bytes.
            other.bind(f"/proc/self/fd/{directory}/host.sock")
        else:
            # It is refilled as fast as it is emptied.
            (work / "orders/i-1.json").unlink()
            (work / "orders/i-1.json/more").mkdir(parents=True)
            with monkeypatch.context() as patched:
                patched.setattr(stack_index, "_LONGEST_REMOVAL", -1.0)
                with pytest.raises(DeployError, match="too large to be removed at once"):
                    bench.applications.remove("i-1")
                until(lambda: bench.launcher.state(host) is ProcessState.STOPPED, "its host has ended")
        bench.remove("i-1")


def test_the_process_table_is_not_searched_for_what_leaves_a_host(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(bench.order("i-1"))
    searches: list[str] = []
    search = processes.marked
    monkeypatch.setattr(processes, "marked", lambda prefix: searches.append(prefix) or search(prefix))
    until(lambda: bench.applications.remove("i-1"))
    assert searches == []


def test_one_whose_index_was_removed_is_found_and_removed(bench: Bench) -> None:
    bench.run(bench.order("i-1"), bench.order("i-2"))
    shutil.rmtree(bench.root / "instances" / "i-1")
    assert bench.inventory.remains("i-1") == ("i-1 in the host shared-0",)
    until(lambda: bench.inventory.remove("i-1"))
    assert bench.inventory.remains("i-1") == ()
    assert not [*bench.root.glob("instances/hosts/shared-0/work/*/i-1*")]


def test_hosts_see_no_more_than_they_need(make: Callable[..., Bench], tmp_path: Path) -> None:
    found = detect_sandbox(tmp_path / "root", readable=[str(Path(fake_host.__file__).parent)])
    if not isinstance(found, Sandbox):
        missing(f"a sandbox: {found}")
    bench = make(sandbox=found, shared=False)
    bench.bundles.chmod(0o700)
    bench.run(bench.order("i-1"), bench.order("i-2", "plain-2", tenant="u"))
    bench.run(bench.order("i-3", "code"), bench.order("i-4", "code-2", tenant="u"))
    seen = {}
    for instance in ("i-1", "i-3"):
        files = [f"{bench.bundles}/{each}/service.yaml" for each in ("plain", "plain-2", "code", "code-2")]
        command = ("find", "/", *files, "(", "-path", "*/orders/*.json", "-o", "-name", "service.yaml", ")")
        with bench.launcher.attached(Name(HOSTS, bench.host(instance)), command, {"PATH": os.defpath}) as spawn:
            done = subprocess.run(
                spawn.command,
                env=dict(spawn.environment),
                cwd=spawn.directory,
                pass_fds=spawn.descriptors,
                capture_output=True,
                text=True,
                check=False,
            )
        seen[instance] = {each.rsplit("/", 2)[2 if each.endswith("json") else 1] for each in done.stdout.split()}
    assert seen == {
        "i-1": {"i-1.json", "i-2.json", "plain", "plain-2", "code", "code-2"},
        "i-3": {"i-3.json", "code"},
    }
    owners = {bench.launcher.work(Name(HOSTS, bench.host(f"i-{n}"))).stat().st_uid for n in range(1, 5)}
    assert len(owners) == (3 if found.root else 1)
