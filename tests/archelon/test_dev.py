"""`archelon dev` and the commands against it: an instance's lifecycle, restarts, and a clean shutdown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from archelon.all_in_one import AllInOne
from archelon.demo.remains import left
from archelon.dev import _print_summary
from archelon.errors import Status
from archelon.state_directory import StateDirectory
from archelon_api import service_manager as wire
from tests.waiting import until

from .harness import Dev, archelon, dev, first_port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with dev(tmp_path_factory.mktemp("system") / "state") as system:
        system.start()
        yield system


@pytest.fixture(scope="module")
def greeter(running: Dev) -> str:
    """A published service's term."""
    bundle = running.state.parent / "greeter"
    assert archelon("new", bundle).status == Status.DONE
    result = running("publish", bundle)
    assert result.status == Status.DONE, result.err
    return "greeter"


def nodes(state: Path, instance: str) -> dict[str, int | None]:
    """Process ids of an instance by name."""
    system = AllInOne(StateDirectory(state), print)
    found = {}
    for launcher, name in system.running():
        if name.instance == instance:
            seen = launcher.observe(name)
            found[name.process] = None if seen is None else seen.pid
    system.supervisor.stop()
    return found


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def test_an_instances_lifecycle(running: Dev, greeter: str) -> None:
    assert [each["service"] for each in running("service", "list", "-o", "json").json] == [greeter]
    shown = running("service", "show", greeter, "-o", "json").json
    assert {each["attribute"] for each in shown["attributes"]} >= {"greeter.greeting", "greeter.url"}

    ordered = running("instance", "create", greeter, "greeter.greeting=Guten Tag", "--title", "mine", "-o", "json")
    assert ordered.status == Status.DONE, ordered.err
    assert "active" in ordered.err
    instance = ordered.json
    assert (instance["state"], instance["title"]) == ("active", "mine")
    url = instance["attributes"]["greeter.url"]
    assert page(url) == "Guten Tag"
    identifier = instance["path"].rpartition("/")[2]

    listed = running("instance", "list", "-o", "json").json
    assert [each["path"] for each in listed] == [instance["path"]]
    # By path, by id, by a prefix of the id.
    for name in (instance["path"], identifier, identifier[:6]):
        assert running("instance", "show", name, "-o", "json").json["path"] == instance["path"]

    updated = running("instance", "update", identifier[:8], "greeter.greeting=Moin", "-o", "json")
    assert updated.status == Status.DONE, updated.err
    assert page(updated.json["attributes"]["greeter.url"]) == "Moin"

    for action, state in (("stop", "inactive"), ("start", "active")):
        result = running("instance", action, identifier, "-o", "json")
        assert result.json["state"] == state, result.err
    assert page(url) == "Moin"

    refused = running("instance", "retry", identifier)
    assert refused.status == Status.CONFLICT
    assert "applicable: stop" in refused.err

    logged = running("instance", "logs", identifier)
    assert logged.status == Status.DONE, logged.err
    assert logged.out
    # The tenant's token is used, and the node has logged the request for its page.
    printed = running("instance", "logs", identifier, "--node", "web.0")
    assert printed.status == Status.DONE, printed.err
    assert '"GET / HTTP/1.1" 200' in printed.out
    assert running("instance", "logs", identifier, "--node", "web.1").status == Status.NOT_FOUND

    gone = running("instance", "delete", identifier, "-o", "json")
    assert gone.json == {"path": instance["path"], "state": "gone"}, gone.err
    assert running("instance", "show", identifier).status == Status.NOT_FOUND
    # Its history outlives it.
    history = running("instance", "events", identifier, "-o", "json").json
    phases = [each["phase"] for each in history["phases"]]
    assert phases == ["initialise", "activate", "deploy", "provision", "update", "stop", "start", "destroy"]
    assert history["removed"]
    state = StateDirectory(running.state)
    until(lambda: left(state) == [], "nothing is left")


def test_a_node_that_keeps_dying_is_shown_and_repaired(running: Dev, greeter: str) -> None:
    instance = running("instance", "create", greeter, "-o", "json").json
    path = instance["path"]
    identifier = path.rpartition("/")[2]
    state = StateDirectory(running.state)
    system = AllInOne(state, print)

    def shown() -> dict[str, str]:
        attributes: dict[str, str] = running("instance", "show", path, "-o", "json").json["attributes"]
        return attributes

    def kill_it_and_see() -> bool:
        for launcher, name in system.running():
            seen = launcher.observe(name) if name.instance == identifier else None
            if seen is not None and seen.pid and name.process != "orchestrator":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seen.pid, signal.SIGKILL)
        attributes = shown()
        return attributes[wire.HEALTH] == "down" and "failed 4 times" in attributes[wire.HEALTH_MESSAGE]

    try:
        until(kill_it_and_see, "the instance is down", seconds=120)
        assert running("instance", "show", path, "-o", "json").json["state"] == "active"
        repaired = running("instance", "retry", path, "-o", "json")
        assert repaired.status == Status.DONE, repaired.err
        assert repaired.json["state"] == "active"
        until(lambda: shown()[wire.HEALTH] == "healthy", "the instance is healthy")
        assert page(shown()["greeter.url"])
        # It is also repaired without a request.
        until(kill_it_and_see, "the instance is down again", seconds=120)
        until(lambda: shown()[wire.HEALTH] == "healthy", "the instance is healthy", seconds=120)
        assert page(shown()["greeter.url"])
    finally:
        system.supervisor.stop()
    changes = running("instance", "events", path, "-o", "json").json
    assert changes["phases"][-1]["phase"] == "update"
    assert running("instance", "delete", path).status == Status.DONE


def test_refusals(running: Dev, greeter: str, tmp_path: Path) -> None:
    for arguments, status, words in (
        (["instance", "create", "nosuch"], Status.NOT_FOUND, "expected one of greeter"),
        (["instance", "create", greeter, "greeter.colour=red"], Status.USAGE, "has no attribute"),
        (["instance", "create", greeter, "greeter.url=http://x"], Status.USAGE, "greeter.url"),
        (["instance", "show", "abc"], Status.USAGE, "names no instance"),
        (["instance", "show", "abcdef"], Status.NOT_FOUND, "there is no instance"),
        (["instance", "logs", "00000000-0000-4000-8000-000000000000"], Status.NOT_FOUND, "unknown application"),
        (["publish", str(running.state.parent / "greeter"), "--as", "tenant"], Status.REFUSED, "not allowed"),
        (["withdraw", "nosuch"], Status.NOT_FOUND, "no published service"),
        (["publish", str(tmp_path)], Status.FAILED, "no manifest"),
    ):
        result = running(*arguments)
        assert result.status == status, (arguments, result)
        assert words in result.err, (arguments, result)
        assert "Traceback" not in result.err
    bad = tmp_path / "token"
    bad.write_text("archelon_nobody")
    result = running("instance", "list", "--token-file", bad)
    assert result.status == Status.REFUSED
    assert "archelon_nobody" not in result.err


def test_a_withdrawn_service_takes_no_orders(running: Dev, tmp_path: Path) -> None:
    archelon("new", tmp_path / "fleeting")
    assert running("publish", tmp_path / "fleeting").status == Status.DONE
    assert running("withdraw", "fleeting").status == Status.DONE
    result = running("instance", "create", "fleeting", "--no-wait")
    assert result.status != Status.DONE
    assert "fleeting" in result.err


def test_the_printed_commands_find_it_from_elsewhere(
    running: Dev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, shown = running.output.read_text().partition("ready in")
    lines = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    (export, commands) = lines
    assert export == f"export ARCHELON_STATE={running.state}"
    # The name by which this shell finds the command, or its path.
    program = commands.partition(" new ")[0]
    monkeypatch.chdir(tmp_path)
    script = f"{export}\n{program} service list -o json\n{program} realm show -o json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARCHELON_")}
    done = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"provider"' in done.stdout


def test_the_hint_names_the_directory_that_commands_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (
        (".archelon", f"In {tmp_path} and below"),
        ("a state", f"export ARCHELON_STATE='{tmp_path}/a state'"),
    ):
        state = StateDirectory(tmp_path / name)
        state.make(host="127.0.0.1", first_port=first_port())
        _print_summary(state, "none", 1.0)
        out = capsys.readouterr().out
        assert words in out
        assert ("ARCHELON_STATE" in out) == (name != ".archelon")


def test_a_second_one_is_refused(running: Dev) -> None:
    result = archelon("dev", "--state", running.state)
    assert result.status == Status.CONFLICT
    assert "in use by process" in result.err


def test_its_process_has_none_of_the_libraries_that_prepare_the_state(running: Dev) -> None:
    assert running.process is not None
    maps = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert [name for name in ("cryptography", "yaml", "sqlite", "_ssl") if name in maps] == []


def test_state_that_cannot_be_prepared_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "regions.yaml").write_text("[]")
    command = [sys.executable, "-m", "archelon", "dev", "--state", str(tmp_path), "--port", str(first_port())]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == Status.USAGE
    assert (
        ended.stderr == f"archelon: {tmp_path}/regions.yaml is not a map of regions, each with platform and settings\n"
    )


def test_logs_contain_no_secrets(running: Dev, greeter: str) -> None:
    state = StateDirectory(running.state)
    secrets = [state.token(role) for role in ("tenant", "provider", "operator")]
    secrets += (state.keys / "encryption.keys").read_text().split()
    secrets.append(state.key("service-manager").read_text().splitlines()[1])
    logs = "".join([path.read_text() for path in state.logs.iterdir()])
    assert '"path":"/published/"' in logs
    assert [secret for secret in secrets if secret in logs] == []


def test_a_restart_continues_with_the_existing_state(tmp_path: Path) -> None:
    with dev(tmp_path / "state") as system:
        system.start("--keep")
        archelon("new", tmp_path / "lasting")
        assert system("publish", tmp_path / "lasting").status == Status.DONE
        instance = system("instance", "create", "lasting", "lasting.greeting=Still here", "-o", "json").json
        identifier = instance["path"].rpartition("/")[2]
        url = instance["attributes"]["lasting.url"]
        before = nodes(system.state, identifier)
        assert len(before) == 2
        assert all(before.values())

        system.interrupt()
        assert page(url) == "Still here"
        result = system("instance", "list")
        assert result.status == Status.UNREACHABLE
        assert len(result.err.splitlines()) == 1

        system.start()
        assert system("instance", "show", identifier, "-o", "json").json["state"] == "active"
        updated = system("instance", "update", identifier, "lasting.greeting=Changed", "-o", "json")
        assert updated.status == Status.DONE, updated.err
        assert page(url) == "Changed"
        # The orchestrator was adopted, not restarted.
        assert nodes(system.state, identifier)["orchestrator"] == before["orchestrator"]

        # Without --keep, it stops everything that it started.
        processes = [pid for pid in nodes(system.state, identifier).values() if pid]
        system.interrupt()
        assert [pid for pid in processes if psutil.pid_exists(pid)] == []

        # The instance still exists, so its processes are recreated.
        system.start()
        until(lambda: _answers(url), "it responds again")
        assert system("instance", "delete", identifier).status == Status.DONE
        until(lambda: left(StateDirectory(system.state)) == [], "nothing is left")


@pytest.mark.parametrize("victim", ["services", "their parent"])
def test_killed_processes_are_restarted(running: Dev, greeter: str, victim: str) -> None:
    assert running.process is not None

    def services() -> set[psutil.Process]:
        assert running.process is not None
        found = set()
        for parent in psutil.Process(running.process.pid).children():
            # One that has just been killed may still be listed.
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update(parent.children())
        return found

    killed = services()
    assert sorted(" ".join(each.cmdline()).strip() for each in killed) == sorted(
        [
            "archelon cloud-controller",
            "archelon service-manager",
            f"archelon worker --of cloud-controller --port {StateDirectory(running.state).ports().cloud_controller_worker}",
            "archelon worker --of service-manager",
        ]
    )
    for process in killed if victim == "services" else {process.parent() for process in killed}:
        assert process is not None
        process.kill()
    # The killed processes may still be listed for a moment.
    until(lambda: len(services() - killed) == 4, "four again")
    until(lambda: not any(map(_runs, killed)), "the killed ones have ended")
    result = until(lambda: _done(running("service", "list", "-o", "json")), "it responds again")
    assert json.loads(result)[0]["service"] == greeter


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_failed_start_reports_the_cause_and_leaves_nothing(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.make(host="127.0.0.1", first_port=first_port())
    (state.path / "service-manager.db").write_text("this is no database " * 100)
    # Excludes children of other tests.
    before = set(psutil.Process().children())
    result = archelon("dev", "--state", state.path)
    assert result.status == Status.FAILED
    (line,) = [line for line in result.err.splitlines() if line.startswith("archelon: ")]
    assert "does not become ready: " in line
    assert "file is not a database" in line
    assert f"its log: {state.logs}/service-manager-w" in line
    assert result.out == ""
    assert set(psutil.Process().children()) - before == set()
    until(
        lambda: not [each for each in psutil.process_iter() if str(state.path) in " ".join(_start_arguments(each))],
        "all exit",
    )


def test_db_upgrade(tmp_path: Path) -> None:
    for service in ("service-manager", "cloud-controller"):
        url = f"sqlite:///{tmp_path}/{service}.db"
        for _ in range(2):
            result = archelon("db", "upgrade", "--of", service, "--url", url)
            assert result.status == Status.DONE, result.err
    with contextlib.closing(sqlite3.connect(tmp_path / "service-manager.db")) as connection:
        assert connection.execute("SELECT count(*) FROM sm_instances").fetchone() == (0,)
    other = archelon("db", "upgrade", "--of", "cloud-controller", "--url", f"sqlite:///{tmp_path}/service-manager.db")
    assert other.status == Status.FAILED
    assert "is not the cloud-controller's" in other.err
    assert archelon("db", "upgrade", "--of", "service-manager", "--url", "mysql://x/y").status == Status.USAGE


def test_a_service_without_settings_reports_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ARCHELON_")]:
        monkeypatch.delenv(name)
    result = archelon("cloud-controller")
    assert result.status == Status.USAGE
    assert "database_url is not set; set ARCHELON_DATABASE_URL" in result.err
    assert archelon("worker", "--of", "service-manager").status == Status.USAGE


def _start_arguments(process: psutil.Process) -> list[str]:
    """A process's arguments, directory and environment; empty if it is gone or not accessible."""
    with contextlib.suppress(psutil.Error):
        return [*process.cmdline(), process.cwd(), *process.environ().values()]
    return []


def _answers(url: str) -> bool:
    try:
        return page(url) == "Changed"
    except OSError:
        return False


def _done(result: object) -> str:
    from .harness import CliResult

    assert isinstance(result, CliResult)
    return result.out if result.status == Status.DONE else ""
