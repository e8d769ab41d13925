"""The console of a server as the output of a node; Heat and Nova are stand-ins."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from cloud_controller.platforms.heat.stacks import HeatStacks
from cloud_controller.platforms.interface import DeployError, UnknownNodeError

from ...infrastructure.descriptions import LABELS, order


def resource(name: str, type_: str) -> SimpleNamespace:
    return SimpleNamespace(
        resource_name=name,
        resource_type=type_,
        physical_resource_id=f"id-of-{name}",
        resource_status="CREATE_COMPLETE",
        resource_status_reason="",
        links=[{"rel": "stack", "href": "http://heat/stacks/s/1"}],
    )


class Cloud:
    """Heat with one stack of two resources, and Nova with this response."""

    def __init__(self) -> None:
        self.status = 200
        self.console = "x" * (64 << 10) + "end"
        self.sent: list[tuple[Any, ...]] = []
        stack = SimpleNamespace(stack_status="CREATE_COMPLETE", stack_name="s", id="1")
        listed = [resource("web", "OS::Nova::Server"), resource("net", "OS::Neutron::Net")]
        self.client = SimpleNamespace(
            stacks=SimpleNamespace(get=lambda *_, **__: stack), resources=SimpleNamespace(list=lambda *_, **__: listed)
        )

    def call(self, labels: Any, do: Any) -> Any:
        assert labels is LABELS
        return do(self.client)

    def send(self, labels: Any, *request: Any, document: Any) -> requests.Response:
        self.sent.append((labels, *request, document))
        answer = requests.Response()
        answer.status_code = self.status
        answer._content = json.dumps({"output": self.console}).encode()
        return answer


def test_a_servers_console_is_its_output() -> None:
    cloud = Cloud()
    stacks = HeatStacks(cloud)  # type: ignore[arg-type]
    wanted = order("heat_template_version: 2018-08-31")
    first = stacks.read_log(wanted, "web")
    assert (len(first.data), first.start, first.next) == (64 << 10, 0, 64 << 10)
    assert stacks.read_log(wanted, "web", first.next).data == b"end"
    assert cloud.sent[0][1:] == ("compute", "POST", "/servers/id-of-web/action", {"os-getConsoleOutput": {}})
    cloud.console = "again"
    assert stacks.read_log(wanted, "web", 1 << 20).next == 5
    with pytest.raises(DeployError, match="only a server has output"):
        stacks.read_log(wanted, "net")
    with pytest.raises(UnknownNodeError, match="no resource 'db'"):
        stacks.read_log(wanted, "db")
    cloud.status = 403
    with pytest.raises(DeployError, match="status 403"):
        stacks.read_log(wanted, "web")
