"""Configurations over SSH, with a real local sshd."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.platforms.heat.configures import HeatConfigures
from cloud_controller.platforms.heat.ssh import parse_task, run
from cloud_controller.platforms.heat.targets import HeatTargets
from cloud_controller.platforms.interface import ConfigurationOrder, Configured, ProvisionError
from tests.conftest import missing
from tests.openstack import OpenStack
from tests.ports import free_port

from .test_platform import Region


class Sshd:
    """An sshd that accepts one key."""

    def __init__(self, directory: Path, program: str) -> None:
        self.directory = directory
        for name in ("host", "other", "user", "stranger"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(command, check=True, timeout=60)
        shutil.copy(directory / "user.pub", directory / "authorized")
        self.port = free_port()
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": directory / "host",
            "PidFile": "none",
            "AuthorizedKeysFile": directory / "authorized",
            # The tests' directories may be writable by others.
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
        }
        (directory / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        # Its privilege separation directory, which Debian's service would create.
        if Path("/run").is_dir() and not Path("/run/sshd").exists():
            Path("/run/sshd").mkdir(mode=0o755)
        self.process = subprocess.Popen([program, "-D", "-e", "-f", str(directory / "config")])
        end = time.monotonic() + 30
        while True:
            assert self.process.poll() is None
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)

    def content(self, **changed: Any) -> dict[str, Any]:
        values = {
            "user": getpass.getuser(),
            "key": (self.directory / "user").read_text(),
            "host_keys": [(self.directory / "host.pub").read_text()],
            "port": self.port,
        }
        return {**values, **changed}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
    if program is None:
        missing("sshd", package="openssh-server")
    assert program is not None
    server = Sshd(tmp_path_factory.mktemp("sshd"), program)
    yield server
    server.close()


def test_files_and_arguments_are_quoted(sshd: Sshd, tmp_path: Path) -> None:
    evil = "'; touch /tmp/never; $(id) `id` \n\"x"
    place = tmp_path / "a b" / "it's.txt"
    content = sshd.content(files={str(place): evil}, command=["printf", "%s|%s", evil, "two words"])
    done = run(parse_task(content), "127.0.0.1")
    assert (done.state, done.result) == ("done", f"{evil}|two words")
    assert place.read_text() == evil
    assert place.stat().st_mode & 0o777 == 0o600
    assert sshd.content()["key"][30:60] not in repr(parse_task(content))


def test_a_server_with_a_different_host_key_receives_nothing(sshd: Sshd, tmp_path: Path) -> None:
    other = (sshd.directory / "other.pub").read_text()
    content = sshd.content(host_keys=[other], files={str(tmp_path / "x"): "x"})
    with pytest.raises(ProvisionError, match="different host key"):
        run(parse_task(content), "127.0.0.1")
    assert not (tmp_path / "x").exists()
    both = sshd.content(host_keys=[other, *sshd.content()["host_keys"]], command=["true"])
    assert run(parse_task(both), "127.0.0.1").state == "done"


def test_failures_are_reported(sshd: Sshd) -> None:
    failed = run(parse_task(sshd.content(command=["sh", "-c", "echo because; exit 3"])), "127.0.0.1")
    assert (failed.state, failed.result) == ("failed", "the command failed with status 3: because\n")
    stranger = sshd.content(key=(sshd.directory / "stranger").read_text(), command=["true"])
    refused = run(parse_task(stranger), "127.0.0.1")
    assert (refused.state, "refuses the key" in refused.result) == ("failed", True)
    # Runs for as long as the connection.
    endless = ["sh", "-c", "while kill -0 $PPID; do sleep 1; done"]
    slow = run(parse_task(sshd.content(command=endless, timeout=2)), "127.0.0.1")
    assert (slow.state, "did not finish within 2 s" in slow.result) == ("failed", True)
    flood = run(parse_task(sshd.content(command=["sh", "-c", "yes | head -c 3000000"])), "127.0.0.1")
    assert (flood.state, "bytes of output" in flood.result) == ("failed", True)
    assert run(parse_task(sshd.content(port=free_port())), "127.0.0.1").state == "waiting"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"host_keys": []}, "host_keys must be a list"),
        ({"host_keys": ["nonsense"]}, "not a public key"),
        ({"key": "secret nonsense"}, "not a private key"),
        ({"user": ""}, "needs a user"),
        ({"port": 0}, "1 to 65535"),
        ({"command": "rm -rf /"}, "list of texts"),
        ({"files": {"relative": "x"}}, "needs an absolute path"),
        ({"timeout": 600}, "at most 60"),
        ({"password": "x"}, "unknown parameter of ssh: password"),
    ],
)
def test_invalid_content_is_refused_without_its_values(sshd: Sshd, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ProvisionError, match=message) as refused:
        parse_task(sshd.content(**changed))
    assert "secret nonsense" not in str(refused.value)


SERVER = """
heat_template_version: 2018-08-31
resources:
  web:
    type: OS::Heat::ResourceGroup
    properties:
      count: 1
      resource_def:
        type: OS::Nova::Server
        metadata: {ports: {http: 8080, metrics: 9100}}
        properties: {image: cirros-0.3.2-x86_64-disk, flavor: m1.nano, networks: [{network: private}]}
"""


def test_a_stacks_servers_are_found_and_configured(openstack_cloud: OpenStack, sshd: Sshd) -> None:
    region = Region(openstack_cloud)
    stack = region.order(SERVER)
    try:
        region.settle(stack)
        instance = stack.labels.instance
        targets = HeatTargets(region.connections, region.index)
        [first] = targets.targets(instance, stack.id, "web", "")
        assert (first.key, first.port, first.host.startswith("10.20.")) == ("web.0", 8080, True)
        assert [each.port for each in targets.targets(instance, stack.id, "web", "metrics")] == [9100]
        assert list(targets.targets(instance, stack.id, "db", "")) == []
        routed: list[str] = []

        def route(address: str) -> str:
            # The hypervisor is a fake, so the local sshd replaces the server.
            routed.append(address)
            return "127.0.0.1"

        configures = HeatConfigures(region.connections, region.index, route=route)

        def order(node: str, kind: str = "ssh") -> ConfigurationOrder:
            return ConfigurationOrder("c", instance, stack.id, node, kind, sshd.content(command=["echo", "hello"]))

        assert configures.configure(order("web")) == Configured("done", "hello\n")
        assert routed == [first.host]
        assert configures.configure(order("db")) == Configured("failed", "the stack has no server 'db'")
        with pytest.raises(ProvisionError, match="user_data in the template"):
            configures.validate(order("web", "cloud-init"))
    finally:
        region.settle(replace(stack, presence="absent"))
