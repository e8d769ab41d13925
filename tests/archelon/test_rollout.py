"""`archelon rollout` and `publish --roll`, against a service manager with a fake cloud: progress, exit statuses, Ctrl-C."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon import rollout
from archelon.errors import CommandError, Status
from archelon_api import names
from archelon_api import service_manager as wire
from occi_service import client
from tests.descriptions import description
from tests.fakes.cloud import FakeCloudProcess
from tests.service_manager.harness import MANIFEST, TYPE, Keys, ServiceManager, running

from .harness import CliResult, archelon


class Provider:
    """The command line of a provider, and a tenant's instances."""

    def __init__(self, manager: ServiceManager, cloud: FakeCloudProcess, directory: Path) -> None:
        self.manager = manager
        self.cloud = cloud
        self.directory = directory
        self.tenant = manager.as_("alice")
        self._token = directory / "token"
        self._token.write_text(manager.realm.tokens["provider"])

    def __call__(self, *arguments: object) -> CliResult:
        return archelon(*arguments, "--url", self.manager.url, "--token-file", self._token)

    def bundle(self, version: str) -> Path:
        directory = self.directory / version
        directory.mkdir()
        (directory / "manifest.json").write_text(json.dumps(MANIFEST | {"version": version}))
        (directory / "deployment.yaml").write_text(description())
        return directory

    def order(self) -> str:
        path = self.tenant.create(TYPE)
        self.manager.await_state(path, "active")
        return path

    def break_updates(self, count: int) -> None:
        self.cloud.fault("fail", module="orchestrator", action="update", message="broken", count=count)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """A provider that has published version 1."""
    keys = Keys()
    for name in ("manager", "cloud"):
        (tmp_path / name).mkdir()
    with FakeCloudProcess(tmp_path / "cloud", keys=[keys.signing.public]) as cloud:
        manager = ServiceManager(
            tmp_path / "manager",
            design_url=cloud.url + "/design",
            database_url=f"sqlite:///{tmp_path}/state.db",
            keys=keys,
        )
        with running(manager):
            made = Provider(manager, cloud, tmp_path)
            assert made("publish", made.bundle("1")).status == Status.DONE
            yield made
            made.tenant.close()


def test_a_roll_is_followed_and_its_end_is_the_exit_status(provider: Provider) -> None:
    result = provider("rollout", "status", "demo", "-o", "json")
    assert (result.status, result.json["state"]) == (Status.DONE, None)
    path = provider.order()
    # It fails with version 1, and again with version 2.
    provider.break_updates(6)
    provider.tenant.update(path, {"demo.size": 2})
    provider.manager.await_state(path, "fail")
    result = provider("publish", provider.bundle("2"), "--roll")
    assert result.status == Status.FAILED
    assert "0 of 1 updated" in result.err
    assert "is incomplete: left over: 1" in result.err
    assert "published" in result.out
    result = provider("rollout", "status", "demo")
    assert result.status == Status.DONE
    assert "failed again" in result.out
    # The next roll tries it again.
    result = provider("rollout", "start", "demo", "-o", "json")
    assert (result.status, result.json["state"], result.json["done"]) == (Status.DONE, "done", 1)
    assert provider.tenant.get(path).attributes[wire.BUNDLE_VERSION] == "2"
    assert provider("rollout", "status", TYPE, "--watch").status == Status.DONE


def test_a_roll_is_paused_resumed_and_stopped(provider: Provider) -> None:
    provider.order()
    assert provider("rollout", "pause", "demo").status == Status.CONFLICT
    # The instance in progress does not report its end.
    provider.cloud.fault("hang", module="orchestrator", action="update", count=None)
    result = provider("publish", provider.bundle("2"), "--roll", "--no-wait", "-o", "json")
    assert result.status == Status.DONE
    assert provider("rollout", "pause", "demo", "-o", "json").json["state"] == "paused"
    assert provider("rollout", "start", "demo").status == Status.CONFLICT
    assert provider("rollout", "resume", "demo", "-o", "json").json["state"] == "running"
    result = provider("rollout", "status", "demo", "--watch", "--timeout", "0.1")
    assert result.status == Status.TIMED_OUT
    assert "archelon rollout stop demo" in result.err
    assert provider("rollout", "stop", "demo", "-o", "json").json["state"] == "stopped"
    assert provider("rollout", "status", "nothing").status == Status.NOT_FOUND


class Interrupted:
    """A service manager whose roll does not end."""

    def get(self, path: str, *, etag: str | None = None) -> client.Entity:
        attributes = {names.SERVICE: TYPE, wire.ROLL_STATE: "running", wire.ROLL_TOTAL: 3, wire.ROLL_DONE: 1}
        return client.Entity(path, "", attributes=attributes)


def test_ctrl_c_leaves_the_roll_running_and_says_how_to_control_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pressed)
    manager: Any = Interrupted()
    with pytest.raises(CommandError, match="the roll continues") as caught:
        rollout.await_end(manager, "/published/1")
    assert caught.value.status == Status.INTERRUPTED
    for command in ("status demo --watch", "pause demo", "stop demo"):
        assert f"archelon rollout {command}" in str(caught.value)
