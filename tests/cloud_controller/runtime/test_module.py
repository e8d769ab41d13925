"""Runtime and provision: metrics of real nodes, alarms sent to the orchestrator, commands in nodes' directories."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_api import deploy, disposal, provision, runtime
from cloud_controller.runtime.rules import OPERATORS, AlarmStatus, Rule, evaluated
from cloud_controller.runtime.scraping import averaged, parse

from ..deploy.test_module import put_application, put_bundle, put_stack, state
from ..disposal.test_module import put_disposal
from ..system import System, labels, new_instance

#: Shows the number in a file of its directory, so that a test (and a configuration) can change it.
METERED = f"""
infra_name: metered
nodes:
  - {{name: web, type: meter}}
'node_def:meter':
  - resource:
      type: process
      command: [{sys.executable}, -I, -u, meter.py, '${{self.port}}']
      ports: [http]
      files:
        load: '1'
        meter.py: |
          import http.server, sys
          class Handler(http.server.BaseHTTPRequestHandler):
              def do_GET(self):
                  self.send_response(200); self.end_headers()
                  self.wfile.write(b'# HELP load x\\nload{{cpu="0"}} ' + open('load', 'rb').read() + b'\\nother 7\\n')
              def log_message(self, *arguments): pass
          http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def system(tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", sqlite_url)
    yield made
    made.clear()


def put_configuration(system: System, instance: str, content: dict[str, Any], **changes: Any) -> tuple[str, Any]:
    stack = deploy.stack_path(instance, "main", "local")
    path = "/provision" + provision.configuration_path(stack, "web", "load")
    attributes = {
        **labels(instance),
        provision.CONFIGURATION_STACK: stack,
        provision.CONFIGURATION_NODE: "web",
        provision.CONFIGURATION_NAME: "load",
        provision.CONFIGURATION_KIND: "process",
        provision.CONFIGURATION_CONTENT: content,
        **changes,
    }
    token = system.instance_token(instance)
    return path, system.call("PUT", path, kind=provision.CONFIGURATION, attributes=attributes, token=token)


def test_monitor_alarm_and_disposal(system: System) -> None:
    instance = new_instance()
    own = system.instance_token(instance)
    put_bundle(system)
    put_application(system, instance)
    made = put_stack(system, instance, token=own, **{deploy.STACK_TEMPLATE: METERED})
    assert made.status_code == 201, made.text
    stack = deploy.stack_path(instance, "main", "local")
    monitor = runtime.monitor_path(stack, "web")
    wanted = {runtime.MONITOR_STACK: stack, runtime.MONITOR_NODE: "web", runtime.MONITOR_INTERVAL: 0.2}
    answer = system.call(
        "PUT", "/runtime" + monitor, kind=runtime.MONITOR, attributes={**labels(instance), **wanted}, token=own
    )
    assert answer.status_code == 201, answer.text
    alarm = runtime.alarm_path(monitor, "busy")
    rule = {
        runtime.ALARM_NAME: "busy",
        runtime.ALARM_MONITOR: monitor,
        runtime.ALARM_METRIC: "load",
        runtime.ALARM_OPERATOR: ">",
        runtime.ALARM_THRESHOLD: 5,
        runtime.ALARM_FOR: 0.3,
    }
    answer = system.call(
        "PUT", "/runtime" + alarm, kind=runtime.ALARM, attributes={**labels(instance), **rule}, token=own
    )
    assert answer.status_code == 201, answer.text

    def alarm_state() -> Any:
        return system.attributes("/runtime" + alarm, token=own)[runtime.ALARM_STATE]

    def notified() -> list[Any]:
        events = [each.attributes for each in system.sent if each.attributes["org.archelon.event.type"] == "alarm"]
        return [each["org.archelon.event.data"]["state"] for each in events]

    with system.worker():
        system.wait(lambda: state(system, instance) == "CREATE_COMPLETE")
        system.wait(lambda: alarm_state() == "ok")
        path, answer = put_configuration(
            system, instance, {"command": ["sh", "-c", "echo 9 > load; echo $WORD"], "environment": {"WORD": "changed"}}
        )
        assert answer.status_code == 201, answer.text
        done = system.wait(
            lambda: (found := system.attributes(path))[provision.CONFIGURATION_STATE] == "done" and found
        )
        assert done[provision.CONFIGURATION_RESULT] == "changed\n"
        assert provision.CONFIGURATION_CONTENT not in done
        system.wait(lambda: alarm_state() == "firing")
        system.wait(lambda: notified() == ["firing"])
        latest = system.call(
            "POST", "/runtime" + monitor, action=runtime.QUERY, token=own, attributes={runtime.QUERY_METRIC: "load"}
        )
        assert [each["value"] for each in latest.json["attributes"][runtime.QUERY_VALUES]] == [9.0]
        back = {runtime.QUERY_METRIC: "load", runtime.QUERY_RANGE: 3600}
        ranged = system.call("POST", "/runtime" + monitor, action=runtime.QUERY, token=own, attributes=back)
        values = [each["value"] for each in ranged.json["attributes"][runtime.QUERY_VALUES]]
        assert (values[0], values[-1]) == (1.0, 9.0)
        path, answer = put_configuration(system, instance, {"files": {"load": "2"}})
        system.wait(lambda: alarm_state() == "ok")
        system.wait(lambda: notified() == ["firing", "ok"])
        assert put_disposal(system, instance).status_code == 201
        gone = "/disposal" + disposal.disposal_path(instance)
        system.wait(lambda: system.attributes(gone)[disposal.DISPOSAL_STATE] == "done")
        for each in ("/runtime" + monitor, "/runtime" + alarm, path):
            assert system.gone(each)


def test_unsupported_configurations_are_rejected(system: System) -> None:
    instance = new_instance()
    assert put_stack(system, instance, **{deploy.STACK_TEMPLATE: METERED}).status_code == 201
    for changes, content, result in (
        ({provision.CONFIGURATION_KIND: "ssh"}, {}, "not available on this platform"),
        ({}, {"command": "rm -rf /"}, "list"),
        ({}, {"files": {"../x": "y"}}, "leaves"),
        ({}, {"shell": "x"}, "expected one of files"),
        ({provision.CONFIGURATION_STACK: "/elsewhere"}, {}, "is not this object's path"),
        ({provision.CONFIGURATION_NAME: "another"}, {}, "is not this object's path"),
    ):
        _, answer = put_configuration(system, instance, content, **changes)
        assert answer.status_code == 400
        assert result in answer.text


def test_paths_derived_from_another_instance_are_rejected(system: System) -> None:
    mine, other, third = new_instance(), new_instance(), new_instance()
    assert put_stack(system, other, **{deploy.STACK_TEMPLATE: METERED}).status_code == 201
    stack = deploy.stack_path(other, "main", "local")
    ahead = deploy.stack_path(third, "main", "local")
    monitor = runtime.monitor_path(stack, "web")
    watched = {runtime.MONITOR_STACK: stack, runtime.MONITOR_NODE: "web", runtime.MONITOR_INTERVAL: 0.2}
    alarm = {
        runtime.ALARM_NAME: "busy",
        runtime.ALARM_MONITOR: monitor,
        runtime.ALARM_METRIC: "load",
        runtime.ALARM_OPERATOR: ">",
        runtime.ALARM_THRESHOLD: 5,
        runtime.ALARM_FOR: 0.3,
    }
    configured = {
        provision.CONFIGURATION_STACK: stack,
        provision.CONFIGURATION_NODE: "web",
        provision.CONFIGURATION_NAME: "load",
        provision.CONFIGURATION_KIND: "process",
        provision.CONFIGURATION_CONTENT: {"files": {"load": "2"}},
    }
    described: list[tuple[str, Any, dict[str, Any]]] = [
        ("/runtime" + monitor, runtime.MONITOR, watched),
        # This stack does not exist yet, so its paths have no owner.
        (
            "/runtime" + runtime.monitor_path(ahead, "web"),
            runtime.MONITOR,
            {**watched, runtime.MONITOR_STACK: ahead},
        ),
        ("/runtime" + runtime.alarm_path(monitor, "busy"), runtime.ALARM, alarm),
        ("/provision" + provision.configuration_path(stack, "web", "load"), provision.CONFIGURATION, configured),
    ]

    def put(path: str, kind: Any, attributes: dict[str, Any], instance: str, tenant: str) -> Any:
        token = system.instance_token(instance, tenant=tenant)
        return system.call("PUT", path, kind=kind, attributes={**labels(instance), **attributes}, token=token)

    for tenant in ("t-1", "t-2"):
        refused = [put(*each, mine, tenant) for each in described]
        assert [(each.status_code, "PUT that first" in each.text) for each in refused] == [(403, True)] * 4
    assert put(*described[0], other, "t-1").status_code == 201
    # Now the monitor exists that an alarm could refer to.
    assert put(*described[2], mine, "t-2").status_code == 403
    assert [put(*each, other, "t-1").status_code for each in described[2:]] == [201, 201]


def test_the_text_format() -> None:
    text = '# TYPE a counter\na{x="1 } \\"2"} 3 1395066363000\na{x="2"} 4\nb 1e3\nc NaN\nd\n{oops} 1\ne +Inf\nf{unclosed="1 2\n'
    assert parse(text) == {"a": 7.0, "b": 1000.0}
    assert averaged([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}


def test_infinite_sums_and_long_names_are_dropped() -> None:
    assert parse(f"big 1.7e308\nbig 1.7e308\n{'x' * 201} 1\nok 1\n") == {"ok": 1.0}
    mean = averaged([{"big": 1.7e308}, {"big": 1.7e308}])["big"]
    assert math.isfinite(mean)


def test_the_number_of_metrics_is_limited() -> None:
    # Each node has its own metric names.
    nodes = [{f"n{node}_{number}": 1.0 for number in range(500)} for node in range(10)]
    assert len(averaged(nodes)) == 500


@given(st.text(max_size=200))
def test_any_text_is_parsed(text: str) -> None:
    assert all(isinstance(value, float) for value in parse(text).values())


@given(
    st.sampled_from(sorted(OPERATORS)),
    st.lists(st.one_of(st.none(), st.floats(-10, 10)), max_size=20),
    st.floats(0, 5),
)
def test_an_alarm_fires_only_after_holding_continuously(comparison: str, values: list[Any], seconds: float) -> None:
    rule = Rule("m", comparison, 0.0, seconds)
    status = AlarmStatus()
    held: int | None = None
    for moment, value in enumerate(values):
        before, status = status, evaluated(rule, status, value, float(moment))
        if value is None:
            if before.state != "firing":
                held = None
                assert status.state == "unknown"
            continue
        holds = OPERATORS[comparison](value, 0.0)
        held = (moment if held is None else held) if holds else None
        expected = "ok" if held is None else "firing" if moment - held >= seconds else "pending"
        assert status.state == expected
