"""The SDK's components in memory: parameters, private state, templates, composition, the engine."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bundles
import sdk
from archelon_api import deploy
from archelon_api import design as wire_design
from archelon_api import orchestrator as wire
from sdk import settings, testing
from sdk.dns import Record, ZoneFiles
from sdk.errors import describe
from sdk.events import IdempotencyScope
from sdk.instance import typed
from sdk.orchestrator import OrchestratorContext
from sdk.private_state import Private
from sdk.runtime.engine import Engine
from sdk.runtime.loading import load_class
from sdk.runtime.waiting import CancellableWaiter
from sdk.templates import Document
from sdk.testing.fake_cloud import DirectServiceClients, FakeCloud
from tests.descriptions import description
from tests.waiting import until

SCHEME = "http://schemas.example.org/occi/sm#"
ONE = "00000000-0000-4000-8000-000000000001"


def bundle(directory: Path, manifest: dict[str, Any], **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.json").write_text(json.dumps({"service_type": SCHEME + "top", **manifest}))
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


# --- parameters -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Wanted:
    size: int
    guestbook_title: str = "none"
    ratio: float = 1.0
    tags: list[str] = dataclasses.field(default_factory=list)
    store: str | None = None
    motto: str = dataclasses.field(default="", metadata={"attribute": "guestbook.long-motto"})


def test_parameters_become_the_authors_dataclass() -> None:
    values = {"guestbook.size": 3, "guestbook.title": "T", "ratio": 2, "guestbook.long-motto": "m", "other": 1}
    assert typed(Wanted, values) == Wanted(3, "T", 2, [], None, "m")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "the parameter size has no value; set one"),
        ({"size": "3"}, "the parameter size has the wrong type str; correct it"),
        ({"size": True}, "the parameter size has the wrong type bool; correct it"),
        ({"size": 1.5}, "the parameter size has the wrong type float; correct it"),
        ({"a.size": 1, "b.size": 2}, "the parameter size could be a.size or b.size; name one in the field's metadata"),
        ({"size": 1, "tags": "x"}, "the parameter tags has the wrong type str; correct it"),
    ],
)
def test_parameters_that_do_not_fit_are_named(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(sdk.Failure) as error:
        typed(Wanted, values)
    assert str(error.value) == expected


# --- private state ----------------------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1, max_size=40), max_size=600))
def test_an_event_is_recorded_once_while_it_is_remembered(events: list[str]) -> None:
    private = Private()
    taken = [each for each in events if private.record(each)]
    assert len(taken) >= len(set(events))
    if len(set(events)) <= 256:
        assert taken == list(dict.fromkeys(events))
    restored = Private()
    restored.restore(private.document())
    assert not any(restored.record(each) for each in list(dict.fromkeys(reversed(taken)))[:256])


@pytest.mark.parametrize(
    ("kept", "expected"), [(object(), "must be JSON"), ("x" * 300_000, "keep less"), (float("nan"), "JSON")]
)
def test_state_that_cannot_be_stored_is_refused(kept: object, expected: str) -> None:
    private = Private()
    private.state["it"] = kept
    with pytest.raises(sdk.Failure, match=expected):
        private.document()


def test_the_names_of_the_environment_are_those_of_the_api() -> None:
    for name in ("ENV_INSTANCE", "ENV_SERVICE_MANAGER", "ENV_DESIGN", "ENV_TOKEN", "ENV_KEYS"):
        assert getattr(settings, name) == getattr(wire, name)
    with pytest.raises(ValueError, match=r"lacks ARCHELON_INSTANCE, .*; a service manager sets them"):
        settings.Settings.read({}, Path())


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(sdk, name) is not None for name in sdk.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        sdk.Nothing  # noqa: B018


def test_descriptions_of_errors() -> None:
    assert describe(sdk.Failure("the disk\nis full")) == "the disk is full"
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(ValueError()) == "ValueError"


# --- templates --------------------------------------------------------------------------------------------------------


def test_a_template_includes_the_files_that_it_names(tmp_path: Path) -> None:
    text = description("{b: {}, a.c: {}}", command="!yaml_import {url: 'file://command.yaml'}")
    command = "[python3, !text_import {url: file://server.py}]  # like other.txt"
    directory = bundle(tmp_path / "b", {}, t__yaml=text, command__yaml=command, server__py="1", other__txt="2")
    document = Document.read(bundles.Bundle.load(directory), "t.yaml", "infrastructure")
    assert document.parameters == ("b", "a.c")
    assert document.files == {"command.yaml": command, "server.py": "1"}


def test_a_template_is_sent_whatever_its_types_keys_are(tmp_path: Path) -> None:
    # The bundle may have been published before these were checked, and its region may use another implementation.
    text = description(command="[a], comand: [b]")
    directory = bundle(tmp_path / "b", {}, t__yaml=text)
    assert Document.read(bundles.Bundle.load(directory), "t.yaml", "infrastructure").text == text


def test_a_template_that_its_parser_refuses_is_not_sent(tmp_path: Path) -> None:
    directory = bundle(tmp_path / "b", {}, t__yaml="nodes: 5\n", k__yaml="a: ${", f__yaml="a: ${files:x.png}")
    (directory / "x.png").write_bytes(b"\x89")
    loaded = bundles.Bundle.load(directory)
    for path, template_format, expected in (
        ("t.yaml", "infrastructure", "t.yaml:1:8: 'nodes' must be a list; "),
        ("k.yaml", "kubernetes", "k.yaml:1:4: $.a: '${' is not a reference; "),
        ("f.yaml", "kubernetes", "f.yaml names the file x.png, which is not UTF-8 text"),
    ):
        with pytest.raises(sdk.Failure, match=re.escape(expected)):
            Document.read(loaded, path, template_format)


def test_a_kubernetes_template_has_the_parameters_that_it_refers_to(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: X\ndata: {a: '${size} $${no}', b: '${top.name}${size}'}\n"
    directory = bundle(tmp_path / "b", {}, t__yaml=text)
    assert Document.read(bundles.Bundle.load(directory), "t.yaml", "kubernetes").parameters == ("size", "top.name")


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "import sdk\nclass A(sdk.Orchestrator): pass\nclass B(sdk.Orchestrator): pass\n",
            "orchestrator.py:1:1: several classes derive from sdk.Orchestrator: A, B; keep one",
        ),
        ("import sdk\nfrom sdk import Orchestrator\n", "orchestrator.py:1:1: no class derives from sdk.Orchestrator; "),
        ("\n1/0\n", "orchestrator.py:2:1: cannot be imported: ZeroDivisionError: division by zero; correct it"),
        ("import far\nfar.f()\n", "far.py:2:1: cannot be imported: KeyError: 'x'; correct it"),
        ("import broken\n", "broken.py:1:1: cannot be imported: SyntaxError: "),
        (
            "import nowhere\n",
            "No module named 'nowhere'; put the module into the bundle, or build an image that has it",
        ),
        ("import sys\nsys.exit(1)\n", "orchestrator.py:2:1: cannot be imported: SystemExit: 1; correct it"),
    ],
)
def test_a_bundle_has_one_orchestrator(tmp_path: Path, code: str, expected: str) -> None:
    far, broken = "def f():\n    {}['x']\n", "def f(:\n"
    directory = bundle(tmp_path / "b", {}, orchestrator__py=code, far__py=far, broken__py=broken)
    with pytest.raises(sdk.Failure) as error:
        load_class(bundles.Bundle.load(directory, checked=True))
    assert expected in str(error.value)
    # Another attempt would load the same code.
    assert error.value.permanent


def test_a_base_class_is_not_a_second_orchestrator(tmp_path: Path) -> None:
    code = "import sdk\nimport near\nclass A(sdk.Orchestrator): pass\nclass B(A): x = near.X\n"
    directory = bundle(tmp_path / "b", {}, orchestrator__py=code, near__py="X = 5\n")
    found = load_class(bundles.Bundle.load(directory))
    assert (found.__name__, found.x) == ("B", 5)  # type: ignore[attr-defined]


# --- composition ------------------------------------------------------------------------------------------------------

MAAS, DNS, DATABASE = SCHEME + "maas", SCHEME + "dns", SCHEME + "database"
COMPOSED = {
    "service_attributes": {"top.motto": {"default": "m"}, "top.database": ""},
    "depends_on": [
        {MAAS: {"inputs": [f"{DNS}#dns.forwarder"]}},
        {DNS: {"inputs": [f"{MAAS}#maas.endpoint"], "attributes": {"dns.zone": "${top.motto}.example.org"}}},
        {DATABASE: {"inputs": [{"from": f"{DNS}#dns.forwarder", "as": "database.resolver"}]}},
    ],
}
OFFERS = {MAAS: {"maas.endpoint": "m:1"}, DNS: {"dns.forwarder": "d:1"}, DATABASE: {"database.url": "u"}}


def test_circular_inputs_are_set_after_creation(tmp_path: Path) -> None:
    context = testing.Context(bundle(tmp_path / "b", COMPOSED))
    after = context.run("deploy", testing.State(offers=OFFERS))
    assert (after.outcome, after.message) == ("done", "")
    assert after.supplier("maas").given == {"dns.forwarder": "d:1"}
    assert after.supplier("dns").given == {"maas.endpoint": "m:1", "dns.zone": "m.example.org"}
    assert after.supplier("database").given == {"database.resolver": "d:1"}
    assert context.run("destroy", after).suppliers == ()


def test_a_changed_parameter_is_written_to_the_supplier(tmp_path: Path) -> None:
    context = testing.Context(bundle(tmp_path / "b", COMPOSED))
    after = context.run("deploy", testing.State(offers=OFFERS))
    changed = context.run("update", replace(after, parameters={"top.motto": "n"}, generation=2))
    assert changed.supplier("dns").given["dns.zone"] == "n.example.org"
    assert len(changed.suppliers) == 3


def test_independent_suppliers_start_at_once(tmp_path: Path) -> None:
    manifest = {"depends_on": [{MAAS: {}}, {DATABASE: {}}]}
    both = threading.Barrier(2, timeout=60)

    class Watched(sdk.Orchestrator):
        def deploy(self) -> None:
            order = self.resolver._order

            def wait_for_both(*arguments: Any) -> Any:
                both.wait()
                return order(*arguments)

            self.resolver._order = wait_for_both  # type: ignore[method-assign]
            super().deploy()

    context = testing.Context(bundle(tmp_path / "b", manifest), Watched)
    assert context.run("deploy", testing.State(offers=OFFERS)).outcome == "done"


class FakeWaiter:
    """A waiter with a clock of its own."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def heard(self, subject: str | None = None) -> int:
        return 0

    def wait(self, seconds: float, heard: int | None = None) -> None:
        self.time += seconds

    def check(self) -> None:
        return


def resolver(directory: Path, cloud: FakeCloud, ordered: dict[str, str]) -> sdk.Resolver:
    manifest = bundles.Bundle.load(bundle(directory, {"depends_on": [{MAAS: {}}]})).manifest
    services = DirectServiceClients(cloud, "http://cloud/manager/1")

    def instance() -> sdk.Instance:
        return sdk.Instance(ONE, "t", SCHEME + "top")

    return sdk.Resolver(
        sdk.Design(services, instance), instance, manifest=manifest, waiter=FakeWaiter(), ordered=ordered
    )


def test_a_supplier_whose_service_left_the_catalogue_is_disposed_of(tmp_path: Path) -> None:
    cloud, ordered = FakeCloud(), dict[str, str]()
    cloud.offers = {MAAS: {"maas.endpoint": "m:1"}}
    assert resolver(tmp_path, cloud, ordered).resolve()[MAAS].attributes["maas.endpoint"] == "m:1"
    (made,) = cloud.find(MAAS)
    assert ordered == {MAAS: cloud.url(MAAS) + made.location}
    cloud.withdrawn.add(MAAS)
    # Another process, with the reported state.
    resolver(tmp_path, cloud, ordered).dispose()
    assert (cloud.find(MAAS), ordered) == ([], {})
    resolver(tmp_path, cloud, ordered).dispose()


def test_a_supplier_that_cannot_be_disposed_of_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, ordered = FakeCloud(), dict[str, str]()
    cloud.offers = {MAAS: {}}
    made = resolver(tmp_path, cloud, ordered)
    made.resolve()
    stuck = {"mcn.service.state": "fail", "mcn.service.state.message": "a disk is held"}
    (suppliers,) = cloud.module(MAAS).behaviours.values()
    monkeypatch.setattr(suppliers, "retrieve", lambda entity, _: entity.attributes.update(stuck))
    with pytest.raises(sdk.SupplierFailure, match="maas cannot be disposed of: a disk is held"):
        made.dispose()


class Elsewhere:
    """A service manager other than the instance's own."""

    own_url = "http://ours.example.org/top/1"

    def __init__(self, *, delegated: bool) -> None:
        self.cloud_in_memory = FakeCloud("http://theirs.example.org")
        self.cloud_in_memory.offers = {MAAS: {"maas.endpoint": "m:1"}}
        self.tokens: list[str | None] = []
        if delegated:
            self.cloud_in_memory.delegate(ONE)

    def design(self) -> Any:
        service = self.cloud_in_memory.at(self.cloud_in_memory.url("design"))

        class Design:
            list = service.list

            def act(self, path: str, action: str, attributes: Any = None) -> Any:
                assert path == f"/delegation/{ONE}"
                assert attributes == {"org.archelon.delegation.audience": MAAS}
                return service.act(path, action, attributes)

        return Design()

    def cloud(self, url: str) -> Any:
        return self.cloud_in_memory.at(url)

    def supplier(self, url: str, exchange: Any) -> Any:
        self.tokens.append(None if exchange is None else exchange())
        return self.cloud_in_memory.at(url)


def test_design_issues_the_token_for_another_service_manager() -> None:
    services = Elsewhere(delegated=True)
    design = sdk.Design(services, lambda: sdk.Instance(ONE, "t", SCHEME + "top"))
    base, _ = design.supplier(MAAS)
    assert base.startswith("http://theirs.example.org/")
    assert services.tokens == ["exchanged"]
    services.own_url = "http://theirs.example.org/top/1"
    design.supplier(MAAS)
    assert services.tokens == ["exchanged", None]


def test_without_a_delegation_the_error_names_it() -> None:
    design = sdk.Design(Elsewhere(delegated=False), lambda: sdk.Instance(ONE, "t", SCHEME + "top"))
    with pytest.raises(sdk.SupplierFailure, match="this instance has no delegation to order there"):
        design.supplier(MAAS)


def test_a_module_that_the_installation_did_not_register_is_not_called() -> None:
    services = Elsewhere(delegated=True)
    cloud = services.cloud_in_memory
    changed = {wire_design.ENDPOINT: "http://stranger.example.org/", wire_design.INTERFACE: "internal"}
    cloud.update_catalogue()
    for number, each in enumerate(cloud.find("design", wire_design.SERVICE.location)):
        for origin in (None, wire_design.OPERATOR, wire_design.IDENTITY):
            attributes = {**each.attributes, wire_design.ORIGIN: origin, **changed}
            cloud.keep("design", f"{wire_design.SERVICE.location}{number}-{origin}", attributes)
    design = sdk.Design(services, lambda: sdk.Instance(ONE, "t", SCHEME + "top"))
    assert len(cloud.find("design", attributes={wire_design.SERVICE_TYPE: deploy.SCHEME})) == 4
    assert design.module(deploy.SCHEME).url == cloud.url("deploy")


def test_an_endpoint_for_hurtles_clients_is_not_used() -> None:
    services = Elsewhere(delegated=True)
    cloud = services.cloud_in_memory
    cloud.update_catalogue()
    design = sdk.Design(services, lambda: sdk.Instance(ONE, "t", SCHEME + "top"))
    before = design.services(MAAS)
    [entry] = cloud.find("design", attributes={wire_design.SERVICE_TYPE: MAAS})
    other = {wire_design.ENDPOINT: "http://theirs.example.org/hurtle/maas/", wire_design.INTERFACE: wire_design.HURTLE}
    cloud.keep("design", f"{wire_design.SERVICE.location}0-hurtle", {**entry.attributes, **other})
    assert design.services(MAAS) == before
    assert len(cloud.find("design", attributes={wire_design.SERVICE_TYPE: MAAS})) == 2


# --- regions, and an author's state -----------------------------------------------------------------------------------


def test_outputs_of_several_regions_have_the_regions_name(tmp_path: Path) -> None:
    manifest = {
        "templates": {"infrastructure": {"deployment": "t.yaml"}},
        "resources": {
            "one": {"format": "infrastructure"},
            "two": {"format": "infrastructure", "parameters": {"size": 2}},
        },
        "service_params": {"deploy": [{"name": "size", "type": "number", "value": 1}]},
    }
    context = testing.Context(bundle(tmp_path / "b", manifest, t__yaml=description("{size: {}}")))
    after = context.run("deploy", testing.State(internal={"size": 1}, makes={"top": {"url": "u"}}))
    assert after.attributes == {"url.one": "u", "url.two": "u"}
    assert {each.region: each.parameters for each in after.stacks} == {"one": {"size": 1}, "two": {"size": 2}}


def test_a_region_selects_one_of_several_formats_and_keeps_it(tmp_path: Path) -> None:
    texts = {
        "kubernetes": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'x-${org.archelon.instance}'}\n",
        "infrastructure": description(),
        "hot": "heat_template_version: 2021-04-16\nresources: {}\n",
    }
    templates = {each: {"deployment": f"{each}.yaml"} for each in texts}
    files = {f"{each}__yaml": text for each, text in texts.items()}
    directory = bundle(tmp_path / "b", {"templates": templates}, **files)
    manifest = bundles.Bundle.load(directory)
    cloud = FakeCloud()
    cloud.formats = {"infrastructure"}
    services = DirectServiceClients(cloud, "http://cloud/manager/1")

    def instance() -> sdk.Instance:
        return sdk.Instance(ONE, "t", SCHEME + "top")

    made = sdk.Deployment(
        sdk.Design(services, instance), instance, bundle=manifest, waiter=FakeWaiter(), scope=IdempotencyScope()
    )
    for _ in range(2):
        assert [each.format for each in made.deploy()] == ["infrastructure"]
    cloud.formats = {"nothing"}
    with pytest.raises(sdk.StackFailure, match="refuses the template") as refused:
        made.deploy()
    assert refused.value.permanent


def test_a_stack_that_its_platform_refuses_is_a_permanent_failure(tmp_path: Path) -> None:
    templates = {"infrastructure": {"deployment": "t.yaml"}}
    template = "infra_name: x\nnodes: [{name: a, type: a}]\n'node_def:a': [{resource: {type: none}}]\n"
    directory = bundle(tmp_path / "b", {"templates": templates}, t__yaml=template)
    cloud = FakeCloud()
    cloud.fails["top"] = "no such flavour"
    services = DirectServiceClients(cloud, "http://cloud/manager/1")

    def instance() -> sdk.Instance:
        return sdk.Instance(ONE, "t", SCHEME + "top")

    manifest = bundles.Bundle.load(directory)
    made = sdk.Deployment(
        sdk.Design(services, instance), instance, bundle=manifest, waiter=FakeWaiter(), scope=IdempotencyScope()
    )
    with pytest.raises(sdk.StackFailure, match="no such flavour") as failed:
        made.deploy()
    assert not failed.value.permanent
    [stack] = cloud.find("deploy", deploy.STACK.location)
    cloud.keep("deploy", stack.location, {**stack.attributes, deploy.STACK_RETRY: False})
    with pytest.raises(sdk.StackFailure, match="no such flavour") as refused:
        made.wait(made.stack())
    assert refused.value.permanent


class Counting(sdk.Orchestrator):
    tick = 5.0

    def on_tick(self, tick: sdk.Tick) -> None:
        self.state["ticks"] = self.state.get("ticks", 0) + 1

    def on_action(self, action: sdk.Action) -> None:
        self.outputs["result"] = action.attributes["what"]
        if action.name == "break":
            raise ZeroDivisionError

    def deploy(self) -> None:
        self.dns.put("example.org", "web", "A", "192.0.2.1")


def test_an_authors_state_survives_events(tmp_path: Path) -> None:
    context = testing.Context(bundle(tmp_path / "b", {}), Counting)
    state = context.run("deploy")
    assert state.names == {"example.org": (Record("web", "A", "192.0.2.1", 300, testing.INSTANCE),)}
    for _ in range(3):
        state = context.run(sdk.Tick(), state)
    assert state.state == {"ticks": 3}
    assert context.run(sdk.Action("say", {"what": "x"}), state).attributes == {"result": "x"}
    # A failed event leaves the instance as it is, with its state.
    assert context.run(sdk.Action("break", {"what": "y"}), state).outputs == {"result": "y"}
    assert context.run("destroy", state).names == {}


def test_a_test_sets_the_output_of_a_configuration(tmp_path: Path) -> None:
    class Greeting(sdk.Orchestrator):
        def provision(self) -> None:
            content = {"config": self.provisioning.file("greet.sh")}
            self.outputs["result"] = self.provisioning.configure(
                self.deployment.stack(), "web", "software-config", content
            )

    place = bundle(tmp_path / "b", {}, greet__sh="echo hello\n")
    (place / "picture").write_bytes(b"\xff\xfe")
    context = testing.Context(place, Greeting)
    before = testing.State(stacks=[testing.Stack("main")], says={"web": "hello"}, phase="deploy")
    assert context.run("provision", before).outputs == {"result": "hello"}

    class Reading(sdk.Orchestrator):
        def provision(self) -> None:
            self.provisioning.file(self.internal["file"])

    for name, result in (("nothing", "the bundle has no file 'nothing'"), ("picture", "'picture' is not UTF-8 text")):
        after = testing.Context(place, Reading).run("provision", testing.State(internal={"file": name}))
        assert result in after.message


def test_ticks_come_at_the_authors_interval_while_the_instance_is_active(tmp_path: Path) -> None:
    ticked = threading.Semaphore(0)
    done: set[str] = set()

    class Ticking(sdk.Orchestrator):
        tick = 0.02

        def on_tick(self, tick: sdk.Tick) -> None:
            ticked.release()

    class Reports:
        def report(self, key: str, attributes: dict[str, Any], settled: Callable[[], None]) -> None:
            if attributes.get("org.archelon.phase.state") == "done":
                done.add(key)

    loaded = bundles.Bundle.load(bundle(tmp_path / "b", {}))
    private, waiter, names, scope = Private(), CancellableWaiter(), ZoneFiles(tmp_path / "zones"), IdempotencyScope()
    services = DirectServiceClients(FakeCloud(), "http://cloud/manager/i")

    def make(instance: sdk.Instance) -> sdk.Orchestrator:
        context = OrchestratorContext(
            instance, bundle=loaded, services=services, waiter=waiter, names=names, private=private, scope=scope
        )
        return Ticking(context)

    engine = Engine(make, private=private, reports=Reports(), waiter=waiter, scope=scope, accept=lambda instance: None)
    engine.open()
    try:
        engine.activate(sdk.Instance(ONE, "t", SCHEME + "top"), {})
        engine.phase("deploy", 1)
        until(lambda: "1/deploy" in done, "it is deployed")
        # A deployed instance is not active yet.
        assert not ticked.acquire(timeout=0.2)
        engine.phase("provision", 1)
        assert all(ticked.acquire(timeout=60) for _ in range(3))
        engine.phase("destroy", 1)
        until(lambda: "1/destroy" in done, "it is gone")
    finally:
        engine.close()


def test_a_test_takes_milliseconds(tmp_path: Path) -> None:
    context = testing.Context(bundle(tmp_path / "b", COMPOSED))
    took = []
    for _ in range(10):
        started = time.perf_counter()
        context.run("deploy", testing.State(offers=OFFERS))
        took.append(time.perf_counter() - started)
    # The median: a machine that stood still for a moment does not count.
    assert statistics.median(took) < 0.5, took


def test_endless_waiting_fails(tmp_path: Path) -> None:
    class Waiting(sdk.Orchestrator):
        def deploy(self) -> None:
            while True:
                self._context.waiter.wait(1.0)

    after = testing.Context(bundle(tmp_path / "b", {}), Waiting).run("deploy")
    assert (after.outcome, after.message) == ("failed", "waited 200 times for something that never happens")
