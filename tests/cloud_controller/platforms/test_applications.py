"""The contract of the applications port, for every platform, and the local platform's additions. Each platform has a rig."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import bundles
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import ApplicationOrder, Applications, ApplicationState, DeployError
from cloud_controller.platforms.local import processes
from cloud_controller.platforms.local.applications import LocalApplications
from cloud_controller.platforms.local.hosts import Hosts
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.orders import Restart
from tests.waiting import until

from .kubernetes.bed import Bed
from .local import fake_host

BUNDLE = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print('secret of', len(os.environ['TOKEN']), 'characters', flush=True)
if os.path.exists(os.path.join(os.path.dirname(__file__), 'broken')):
    sys.exit(4)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_request(self, *arguments):
        if self.path not in ('/readyz', '/healthz'):
            print('GET', self.path, flush=True)
http.server.HTTPServer((os.environ['HOST'], int(os.environ['PORT'])), Handler).serve_forever()
"""
#: Stands in for the orchestrators' image: unpacks the bundle and runs it.
UNPACK = """
import os, runpy, tarfile
tarfile.open(os.environ['ARCHELON_BUNDLE_ARCHIVE']).extractall('/tmp/bundle')
runpy.run_path('/tmp/bundle', run_name='__main__')
"""


@dataclass(frozen=True)
class Rig:
    """A platform's applications, and a test's direct access to it.

    Args:
        order: of a working application. again: returns another worker's `Applications`. running: names of what runs.
        kill: kills what runs.
    """

    applications: Applications
    order: ApplicationOrder
    again: Callable[[], Applications]
    running: Callable[[], list[str]]
    kill: Callable[[], None]

    @property
    def instance(self) -> str:
        return self.order.labels.instance


def ordered(directory: Path, *, broken: bool = False, instance: str = "i-1") -> ApplicationOrder:
    files = {"__main__.py": bundles.PackedFile(BUNDLE.encode())}
    if broken:
        files["broken"] = bundles.PackedFile(b"")
    archive = bundles.pack_files(files)
    return ApplicationOrder(
        Labels(instance, "t", "svc", 1),
        bundle=str(bundles.unpack(archive, directory)),
        archive=lambda: archive,
        environment={"TOKEN": "s3cret"},
    )


def applications_of(root: Path) -> LocalApplications:
    return LocalApplications(
        Launcher(root), runner=(sys.executable, "-I"), restart=Restart("always", limit=1, backoff=0.05)
    )


def local_rig(tmp_path: Path) -> Rig:
    root = tmp_path / "root"

    def kill() -> None:
        for each in supervised(root):
            os.kill(each, signal.SIGKILL)

    return Rig(
        applications_of(root),
        ordered(tmp_path / "bundle"),
        lambda: applications_of(root),
        lambda: [str(each) for each in supervised(root)],
        kill,
    )


def hosted_applications(root: Path) -> LocalApplications:
    launcher = Launcher(root)
    hosts = Hosts(launcher, program=(sys.executable, "-I", fake_host.__file__))
    return LocalApplications(launcher, hosts=hosts)


def hosted_rig(tmp_path: Path) -> Rig:
    """One whose bundle has code, which a host runs."""
    root = tmp_path / "root"
    order = ordered(tmp_path / "bundle")
    (tmp_path / "bundle" / "orchestrator.py").touch()

    def running() -> list[str]:
        found = [json.loads(each.read_bytes()) for each in root.glob("instances/hosts/*/work/states/i-1.json")]
        return [str(each["pid"]) for each in found]

    def kill() -> None:
        for each in running():
            os.kill(int(each), signal.SIGKILL)

    return Rig(hosted_applications(root), order, lambda: hosted_applications(root), running, kill)


def kubernetes_rig(bed: Bed, tmp_path: Path) -> Rig:
    instance = str(uuid.uuid4())
    order = replace(ordered(tmp_path / "bundle", instance=instance), command=("python3", "-I", "-u", "-c", UNPACK))

    def kill() -> None:
        for each in bed.pods(instance=instance):
            bed.kill(each)

    return Rig(
        bed.platform.applications,
        order,
        lambda: bed.open().applications,
        lambda: [each["metadata"]["uid"] for each in bed.pods(instance=instance)],
        kill,
    )


@pytest.fixture(params=["local", "hosted", pytest.param("kubernetes", marks=pytest.mark.kubernetes)])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "kubernetes":
        made = kubernetes_rig(request.getfixturevalue("bed"), tmp_path)
    else:
        made = local_rig(tmp_path) if request.param == "local" else hosted_rig(tmp_path)
    yield made

    def gone() -> bool:
        return made.applications.remove(made.instance) and not made.applications.remains(made.instance)

    if request.param != "kubernetes":
        until(gone)
    else:
        request.getfixturevalue("bed").leave(gone)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def applications(root: Path) -> Iterator[Applications]:
    applications = applications_of(root)
    yield applications
    until(lambda: applications.remove("i-1"))
    assert applications.remains("i-1") == ()


def state(applications: Applications, instance: str = "i-1") -> ApplicationState:
    found = applications.state(instance)
    assert found is not None
    return found


def start(rig: Rig, order: ApplicationOrder | None = None) -> ApplicationState:
    rig.applications.start(order or rig.order)
    until(lambda: state(rig.applications, rig.instance).state == "active")
    return state(rig.applications, rig.instance)


def reached(url: str) -> bool:
    """Return whether it responds; routing may take a moment longer than the state."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def supervised(root: Path) -> list[int]:
    launcher = Launcher(root)
    [name] = launcher.names()
    [value] = launcher.marker(name).values()
    return [process.pid for process, _ in processes.with_marker(value, processes.table().values())]


# every platform -------------------------------------------------------------------------------------------------------


def test_start_stop_start_remove(rig: Rig) -> None:
    applications, instance = rig.applications, rig.instance
    assert applications.state(instance) is None
    first = start(rig)
    until(lambda: reached(first.url))
    until(lambda: applications.stop(instance))
    assert state(applications, instance) == ApplicationState("inactive", "", first.url)
    assert start(rig).url == first.url
    until(lambda: applications.remove(instance))
    assert applications.state(instance) is None
    assert list(applications.remains(instance)) == []
    assert applications.remove(instance)
    assert applications.stop(instance)


def test_adopted_by_another_worker(rig: Rig) -> None:
    start(rig)
    before = rig.running()
    other = rig.again()
    # A later generation of the same program is no reason to restart it: the orchestrator is notified of it.
    later = replace(rig.order, labels=replace(rig.order.labels, generation=2))
    assert other.start(later).state == "active"
    assert rig.running() == before


def test_a_changed_environment_or_a_kill_restarts_the_application(rig: Rig) -> None:
    start(rig)
    [first] = rig.running()
    start(rig, replace(rig.order, environment={"TOKEN": "other"}))
    [second] = rig.running()
    assert second != first
    rig.kill()
    # A killed process may still accept connections while it is no longer listed, so wait for the next one itself.
    until(lambda: set(rig.running()) - {second} and state(rig.applications, rig.instance).state == "active")
    [third] = rig.running()
    assert third != second


def test_restarted(rig: Rig) -> None:
    start(rig)
    before = rig.running()
    until(lambda: rig.applications.restart(rig.order).message != "is stopping, to be started again")
    until(lambda: state(rig.applications, rig.instance).state == "active")
    assert rig.running() != before


def test_the_log_can_be_followed(rig: Rig) -> None:
    url = start(rig).url
    # It may listen before its output is in the log.
    first = until(lambda: (found := rig.applications.read_log(rig.instance)).data and found)
    assert first.data.startswith(b"secret of 6 characters\n")
    until(lambda: reached(f"{url}?follow"))
    until(lambda: b"GET /?follow" in rig.applications.read_log(rig.instance, first.next).data)
    assert rig.applications.read_log(rig.instance, first.next).start == first.next
    assert b"secret of" not in rig.applications.read_log(rig.instance, first.next).data


def test_an_order_without_a_program_is_rejected(rig: Rig) -> None:
    with pytest.raises(DeployError, match="neither a"):
        rig.applications.start(replace(rig.order, bundle="", archive=None, command=()))
    assert rig.applications.state(rig.instance) is None


# the local platform ---------------------------------------------------------------------------------------------------


def test_a_failing_application_reports_the_reason(applications: Applications, tmp_path: Path) -> None:
    applications.start(ordered(tmp_path / "bundle", broken=True))
    until(lambda: "which is the limit" in state(applications).message)
    assert state(applications).state == "error"
    assert state(applications).message == "exited with status 4; restarted 1 times, which is the limit"


def test_secrets_are_in_no_text_or_file(applications: Applications, tmp_path: Path, root: Path) -> None:
    order = ordered(tmp_path / "bundle")
    applications.start(order)
    until(lambda: state(applications).state == "active")
    assert "s3cret" not in repr((order, state(applications)))
    written = [path for path in root.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


def test_images_are_rejected(applications: Applications, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="runs no images"):
        applications.start(replace(ordered(tmp_path / "bundle"), bundle="", image="x"))
    assert applications.state("i-1") is None
