"""Two tenants on one machine: the code of one cannot access anything of the other or of the installation.

Without isolation the same code can access all of it, which shows that the code does try; such a machine accepts a second tenant
only with `--shared`.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from archelon.all_in_one import AllInOne
from archelon.errors import Status
from archelon.state_directory import StateDirectory
from cloud_controller.platforms.local.sandbox import detect_sandbox
from tests.archelon.harness import ROOT, CliResult, Dev, archelon, dev
from tests.conftest import missing
from tests.waiting import until

BUNDLE = Path(__file__).parent / "intruder"
SECRET = "alice-alone-may-know-this"
#: In the state directory, only the path to a process' own directory is visible.
REACHED_NOTHING = {"found": [], "listed": ["cloud"], "killed": [], "written": []}


class Installation:
    """An all-in-one with two tenants, `dev` and `mallory`, and the service that both order."""

    def __init__(self, running: Dev, directory: Path) -> None:
        self.dev = running
        self.state = StateDirectory(running.state)
        self._mallory = directory / "mallory.token"

    def start(self, *arguments: str, path: str = os.environ["PATH"]) -> None:
        """Start it with `path` as the search path of programs."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ARCHELON_")}
        command = [sys.executable, "-m", "archelon", "dev", "--state", str(self.dev.state)]
        command += ["--port", str(self.dev._port), *arguments]
        # The most permissive umask.
        careless = [sys.executable, "-c", "import os, sys; os.umask(0); os.execv(sys.argv[1], sys.argv[1:])"]
        self.dev.launch([*careless, *command], cwd=ROOT, environment={**environment, "PATH": path})

    def populate(self) -> None:
        realm = ["--file", self.state.realm]
        assert archelon("realm", "tenant", "add", "mallory", *realm).status == Status.DONE
        assert archelon("realm", "user", "add", "mallory", "--tenant", "mallory", *realm).status == Status.DONE
        issued = archelon("realm", "token", "issue", "mallory", "--tenant", "mallory", *realm, "-o", "json")
        self._mallory.write_text(issued.json["token"])
        result = self.dev("publish", BUNDLE)
        assert result.status == Status.DONE, result.err

    def mallory(self, *arguments: object) -> CliResult:
        return self.dev(*arguments, "--token-file", self._mallory)

    def targets(self, instance: str) -> dict[str, list[str]]:
        """Return the intruder's targets: the installation's state and secrets, another tenant's directories and processes."""
        key = self.state.key("service-manager").read_text().splitlines()[1]
        token = json.loads((self.state.path / "tokens.json").read_text())["operator"]
        processes = self.processes(instance)
        return {
            "needles": [each[::-1] for each in (SECRET, key, token)],
            "trees": [str(self.state.path.resolve())],
            "files": [str(self.state.path.resolve() / "service-manager.db")],
            "kill": [str(pid) for pid in processes.values()],
            "write": [str(self.state.path.resolve()), str(self.state.keys.resolve()), str(ROOT / "sdk")],
        }

    def processes(self, instance: str) -> dict[str, int]:
        """Return the supervised processes of an instance, by name."""
        system = AllInOne(self.state, lambda _line: None)
        try:
            running = [each for each in system.running() if each[1].instance == instance.rpartition("/")[2]]
            seen = {str(name): launcher.observe(name) for launcher, name in running}
        finally:
            system.supervisor.stop()
        return {name: process.pid for name, process in seen.items() if process is not None and process.pid}

    def readyz(self) -> dict[str, Any]:
        return page(f"http://127.0.0.1:{self.state.ports().cloud_controller_worker}/readyz")


def page(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=60) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def reports(instance: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Return what each of an instance's processes could access."""
    published: dict[str, dict[str, list[str]]] = json.loads(instance["attributes"]["intruder.reports"])
    served = until(lambda: page(instance["attributes"]["intruder.url"]), "the node responds")
    return {**published, **served}


def created(result: CliResult) -> dict[str, Any]:
    assert result.status == Status.DONE, result.err
    instance: dict[str, Any] = result.json
    assert instance["state"] == "active"
    return instance


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with dev(tmp_path / "state") as running:
        yield Installation(running, tmp_path)


def test_a_tenants_code_cannot_access_another_tenant(installation: Installation, tmp_path: Path) -> None:
    if isinstance(why := detect_sandbox(tmp_path / "tried"), str):
        missing(f"a sandbox ({why})", package="bubblewrap")
    installation.start()
    assert "isolation         bubblewrap, " in installation.dev.output.read_text()
    assert installation.readyz()["checks"]["isolation in local"].startswith("bubblewrap, ")
    installation.populate()
    victim = created(installation.dev("instance", "create", "intruder", f"intruder.secret={SECRET}", "-o", "json"))
    before = installation.processes(victim["path"])
    assert len(before) == 2

    targets = json.dumps(installation.targets(victim["path"]))
    made = created(installation.mallory("instance", "create", "intruder", f"intruder.targets={targets}", "-o", "json"))
    assert reports(made) == dict.fromkeys(("orchestrator", "configuration", "node", "check"), REACHED_NOTHING)
    assert installation.processes(victim["path"]) == before

    users = {psutil.Process(pid).uids().real for pid in inner(before)}
    others = {psutil.Process(pid).uids().real for pid in inner(installation.processes(made["path"]))}
    if os.geteuid() == 0:
        # Each tenant has its own user, and none is root.
        assert len(users) == len(others) == 1
        assert users.isdisjoint(others)
        assert 0 not in users | others

    open_to_others = [path for path in below(installation.state.path) if mode(path) & 0o077]
    assert open_to_others == []


def inner(processes: dict[str, int]) -> list[int]:
    """Return the processes inside sandboxes, below bubblewrap and its first process."""
    first = [child for pid in processes.values() for child in psutil.Process(pid).children()]
    return [child.pid for each in first for child in each.children(recursive=True)]


def below(directory: Path) -> list[Path]:
    """Return everything in a state directory except the content of unpacked bundles, which several tenants' users read.

    Their parent directory is private.
    """
    bundles = directory / "cloud" / "bundles"
    assert mode(bundles) == 0o700
    found = [directory]
    for above, directories, files in os.walk(directory):
        if Path(above) == bundles:
            directories.clear()
        found += [Path(above, name) for name in (*directories, *files)]
    return [path for path in found if not path.is_symlink()]


def mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return 0


def test_a_machine_without_isolation_accepts_one_tenant_unless_shared(
    installation: Installation, tmp_path: Path
) -> None:
    (nothing := tmp_path / "no programs").mkdir()
    installation.start(path=str(nothing))
    missing_bwrap = "none (bubblewrap (bwrap) is not installed)"
    assert f"{missing_bwrap}; one tenant at a time" in installation.dev.output.read_text()
    ready = installation.readyz()
    assert (ready["ready"], ready["checks"]["isolation in local"]) == (True, f"{missing_bwrap}; one tenant at a time")
    installation.populate()
    victim = created(installation.dev("instance", "create", "intruder", f"intruder.secret={SECRET}", "-o", "json"))
    refused = installation.mallory("instance", "create", "intruder", "--no-wait", "-o", "json")
    assert refused.status == Status.DONE, refused.err
    path = refused.json["path"]

    def message() -> str:
        return str(installation.mallory("instance", "show", path, "-o", "json").json["message"])

    until(lambda: "another tenant's processes run here" in message(), "the message gives the reason")
    assert installation.processes(path) == {}
    assert page(victim["attributes"]["intruder.url"])["node"]["killed"] == []
    assert installation.mallory("instance", "delete", path).status == Status.DONE

    installation.dev.interrupt()
    installation.start("--shared", path=str(nothing))
    until(lambda: len(installation.processes(victim["path"])) == 2, "the existing instance runs again")
    targets = json.dumps(installation.targets(victim["path"]) | {"kill": [], "write": [str(tmp_path)]})
    made = created(installation.mallory("instance", "create", "intruder", f"intruder.targets={targets}", "-o", "json"))
    for who, report in reports(made).items():
        assert {"cloud", "keys", "service-manager.db"} <= set(report["listed"]), who
        assert report["written"] == [str(tmp_path)], who
        kinds = {Path(path).name for path in report["found"]}
        assert {"environ", "secret", "service-manager.pem", "tokens.json"} <= kinds, who
