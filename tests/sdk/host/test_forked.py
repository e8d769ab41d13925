"""A host of one bundle with code: a process for each instance, which ends with its order and with the host."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from archelon_api import service_manager as manager
from occi_service import client
from sdk.testing.http_fakes import Bench
from tests.descriptions import description
from tests.ports import free_port
from tests.waiting import until

from .orders import MANIFEST, HostProcess, Platform

#: `sdk.host forked` with short pauses.
HASTY = """
from archelon_core.backoff import Backoff
from sdk.host import forked

forked._BACKOFF = Backoff(0.01, longest=0.05)
forked._GRACE = 0.5
forked.main()
"""
#: Prints which process makes what instances have in common, and what is imported later.
TRACED = """
import os, sys
from sdk import templates
from sdk.host import forked
from sdk.runtime.http import OrchestratorApplication

def traced(make):
    def made(*given, **named):
        print(make.__name__, "in", os.getpid(), flush=True)
        return make(*given, **named)
    return made

forked.read_jwk_set = traced(forked.read_jwk_set)
templates.parse = traced(templates.parse)
OrchestratorApplication.__init__ = traced(OrchestratorApplication.__init__)
host = os.getpid()
sys.addaudithook(lambda event, given: event == "import" and os.getpid() != host and print("imports", given[0], flush=True))
forked.main()
"""
CODE = """
import os, signal, subprocess, sys
import sdk

class Tested(sdk.Orchestrator):
    def deploy(self):
        print("printed for", self.instance.id, flush=True)
        # A process that leaves the session, and whose parent exits.
        leave = "import os, time\\nif os.fork():\\n os._exit(0)\\nos.setsid()\\ntime.sleep(1000)"
        subprocess.run([sys.executable, "-S", "-c", leave, self.instance.id], check=True, env={})
        self.outputs["tested.url"] = " ".join(sorted(name for name in os.environ if name.startswith("ARCHELON")))
        super().deploy()

    def update(self):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps(MANIFEST))
    (directory / "web.yaml").write_text(description("{}"))
    (directory / "orchestrator.py").write_text(CODE)
    return directory


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path / "work")


@pytest.fixture
def process(platform: Platform, tmp_path: Path) -> Iterator[HostProcess]:
    with HostProcess(platform, tmp_path / "log", "-c", HASTY) as process:
        yield process


class Served:
    """An instance with a port of its own."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def serve(self, platform: Platform, bundle: Path) -> str:
        renewals = self.bench.renewals
        digest = platform.order(self.bench, bundle, {"HOST": "127.0.0.1", "PORT": str(self.port)})
        platform.await_state(self.bench.instance, "running", digest)
        assert self.bench.await_renewal(renewals)
        return digest

    def phase(self, phase: str, generation: int = 1) -> None:
        with self.bench.orchestrator(self.url) as occi:
            self.bench.activate(occi, generation)
            self.bench.phase(occi, phase, generation)

    def deploy(self) -> None:
        self.phase("deploy")
        report = self.bench.await_report("deploy")
        assert report is not None
        assert report[manager.PHASE_STATE] == "done", report


@pytest.fixture
def instances() -> Iterator[list[Served]]:
    with contextlib.ExitStack() as stack:
        benches = [stack.enter_context(Bench(str(MANIFEST["service_type"]), seconds=60)) for _ in range(2)]
        yield [Served(each) for each in benches]


def processes(process: HostProcess) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def all_ended(found: list[psutil.Process]) -> bool:
    return not [each for each in found if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_each_instance_has_a_process_like_any_orchestrators(
    platform: Platform, instances: list[Served], bundle: Path, tmp_path: Path
) -> None:
    with HostProcess(platform, tmp_path / "log", "-m", "sdk.host", "forked") as process:
        _check_processes(platform, process, instances, bundle)
        assert process.stop() == 0
    assert platform.state(instances[0].bench.instance) == {}


def _check_processes(platform: Platform, process: HostProcess, instances: list[Served], bundle: Path) -> None:
    for each in instances:
        each.serve(platform, bundle)
        each.deploy()
    one, other = instances
    # Code of the author sees what it sees in a process of its own, without the start token.
    shown = one.bench.reports[-1][manager.OUTPUTS]["tested.url"].split()
    assert shown == ["ARCHELON_DESIGN", "ARCHELON_INSTANCE", "ARCHELON_KEYS", "ARCHELON_SERVICE_MANAGER"]
    assert len(processes(process)) == 2
    for child in processes(process):
        assert (os.getsid(child.pid), os.getpgid(child.pid)) == (child.pid, child.pid)
    log = platform.log(one.bench.instance)
    assert f"printed for {one.bench.instance}\n" in log
    assert '"phase_event":"done"' in log
    assert other.bench.instance not in log
    assert one.bench.start_token not in log


def test_what_instances_have_in_common_is_made_before_the_fork(
    platform: Platform, instances: list[Served], bundle: Path, tmp_path: Path
) -> None:
    with HostProcess(platform, tmp_path / "log", "-c", TRACED) as process:
        one, other = instances
        for each in (one, other):
            each.serve(platform, bundle)
        one.deploy()
        made = [line for line in process.log.read_text().splitlines() if " in " in line]
        # Each service manager of the test has keys of its own.
        assert made == [f"{what} in {process.pid}" for what in ("__init__", "read_jwk_set", "parse", "read_jwk_set")]
        for each in (one, other):
            for what in ("__init__ in", "read_jwk_set in", "parse in", "imports encodings"):
                assert what not in platform.log(each.bench.instance)


def test_nothing_of_an_instance_remains_after_its_order(
    platform: Platform, process: HostProcess, instances: list[Served], bundle: Path
) -> None:
    one, other = instances
    for each in instances:
        each.serve(platform, bundle)
        each.deploy()
    everything = psutil.Process(process.pid).children(recursive=True)
    # Each with the process that its code has left behind.
    assert len(everything) == 4
    platform.withdraw(one.bench.instance)
    until(lambda: not platform.state(one.bench.instance), "nothing of it runs")
    left = psutil.Process(process.pid).children(recursive=True)
    assert len(left) == 2
    assert all_ended([each for each in everything if each not in left])
    # The other one continues, and another order of the first starts.
    other.bench.renewals = 0
    one.serve(platform, bundle)
    assert other.bench.renewals == 0


def test_a_process_that_exits_is_restarted_until_the_limit(
    platform: Platform, process: HostProcess, instances: list[Served], bundle: Path
) -> None:
    one, other = instances
    other.serve(platform, bundle)
    digest = one.serve(platform, bundle)
    one.deploy()
    renewals = one.bench.renewals
    # It may exit before the response is sent.
    with contextlib.suppress(client.TransportError):
        one.phase("update", 2)
    assert one.bench.await_renewal(renewals)
    assert platform.await_state(one.bench.instance, "running", digest)["restarts"] == 1
    # It fails at each start: its environment is invalid.
    broken = platform.order(one.bench, bundle, {"ARCHELON_KEYS": "{"})
    shown = platform.await_state(one.bench.instance, "failed", broken)
    assert shown["restarts"] == 5
    assert shown["message"] == "exited with status 1; restarted 5 times, which is the limit"
    assert platform.log(one.bench.instance).count("ARCHELON_KEYS is not a JWK set") == 6
    malformed = platform.write(one.bench.instance, b"{")
    assert platform.await_state(one.bench.instance, "failed", malformed)["message"].startswith("the order is not")
    # A new order starts it again.
    one.serve(platform, bundle)
    other.deploy()


def test_the_processes_end_with_a_killed_host_and_its_successor_starts_them_again(
    platform: Platform, process: HostProcess, instances: list[Served], bundle: Path
) -> None:
    one = instances[0]
    digest = one.serve(platform, bundle)
    [before] = processes(process)
    process.kill()
    until(lambda: all_ended([before]), "it ends with the host")
    renewals = one.bench.renewals
    process.start()
    assert one.bench.await_renewal(renewals)
    platform.await_state(one.bench.instance, "running", digest)
    one.deploy()


def test_a_process_that_ignores_the_end_of_its_order_is_killed(
    platform: Platform, process: HostProcess, instances: list[Served], bundle: Path
) -> None:
    one = instances[0]
    one.serve(platform, bundle)
    [stopped] = processes(process)
    stopped.send_signal(signal.SIGSTOP)
    platform.withdraw(one.bench.instance)
    until(lambda: not platform.state(one.bench.instance), "nothing of it runs")
    assert all_ended([stopped])
