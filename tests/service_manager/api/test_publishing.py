"""Publishing, replacing and withdrawing a service, and the requests that are refused."""

from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import bundles
from archelon_api import service_manager as wire
from service_manager.store import services, tables
from tests.occi_service.server.calls import path_of

from ..harness import MANIFEST, TYPE, make_bundle
from .in_process_api import DIGEST, PUBLISHED, InProcessApi, Template

OTHER = "http://schemas.example.org/occi/sm#other"


def kinds(api: InProcessApi, who: str = "alice", web: object = None) -> dict[str, Any]:
    found = api.ask(who, "GET", "/-/", web=web).json["kinds"]
    return {each["scheme"] + each["term"]: each for each in found}


def test_a_bundle_is_stored_once_and_returned(api: InProcessApi) -> None:
    packed = api.bundle()
    assert api.put_bundle(packed).status == 201
    assert api.put_bundle(packed).status == 200
    answer = api.ask("provider", "GET", f"/bundle/{packed.digest}", accept=None)
    assert (answer.status, answer.body) == (200, packed.archive)


def test_a_published_service_can_be_ordered_at_once(api: InProcessApi) -> None:
    assert TYPE not in kinds(api)
    entry = api.publish_demo()
    assert TYPE in kinds(api)
    shown = api.attributes(entry, "provider")
    assert shown["org.archelon.service"] == TYPE
    assert shown["org.archelon.bundle.version"] == "1"
    assert shown["org.archelon.published.by"] == "provider"
    assert shown["org.archelon.published.state"] == "published"
    assert api.attributes(api.order())[wire.STATE] == "initialise"


def test_every_web_process_sees_it_at_once(api: InProcessApi) -> None:
    other = api.another_process()
    assert TYPE not in kinds(api, web=other)
    api.publish_demo()
    assert TYPE in kinds(api, web=other)
    assert api.ask("bob", "GET", "/demo/", web=other).status == 200
    # Replaced: every process accepts an order that is valid with the new manifest.
    attributes = {"demo.size": {"type": "number"}, "demo.colour": ""}
    api.publish_demo(version="2", service_attributes=attributes)
    ordered = api.ask("alice", "POST", "/demo/", {"kind": TYPE, "attributes": {"demo.colour": "red"}}, web=other)
    assert ordered.status == 201, ordered.body
    entry = api.ask("provider", "GET", "/published/").json["resources"][-1]["id"].removeprefix("urn:uuid:")
    assert api.ask("provider", "DELETE", f"/published/{entry}").status == 200
    assert api.ask("alice", "POST", "/demo/", {"kind": TYPE}, web=other).status == 409


def test_replacing_updates_the_previous_entry(api: InProcessApi) -> None:
    first = api.publish_demo()
    second = api.publish_demo(version="2")
    assert api.attributes(first, "provider")["org.archelon.published.state"] == "replaced"
    assert api.attributes(second, "provider")["org.archelon.published.state"] == "published"
    refused = api.ask("provider", "DELETE", first)
    assert refused.status == 409
    assert second in refused.text
    assert api.attributes(api.order())["org.archelon.bundle.version"] == "2"


def test_a_withdrawn_service_takes_no_orders_and_its_instances_continue(api: InProcessApi) -> None:
    entry = api.publish_demo()
    path = api.order()
    assert api.ask("provider", "DELETE", entry).status == 200
    assert api.ask("provider", "DELETE", entry).status == 200
    assert api.attributes(entry, "provider")["org.archelon.published.state"] == "withdrawn"
    refused = api.ask("alice", "POST", "/demo/", {"kind": TYPE})
    assert refused.status == 409
    assert "withdrawn" in refused.text
    assert api.ask("alice", "POST", path, {"attributes": {"demo.size": 3}}).status == 200
    assert api.ask("alice", "DELETE", path).status == 200
    # Published again, it takes orders again.
    api.publish_demo()
    assert api.order()


def test_publications_are_logged(api: InProcessApi) -> None:
    first, second = api.bundle(), api.bundle("second", version="2")
    api.publish(first)
    entry = path_of(api.publish(second))
    api.ask("provider", "DELETE", entry)
    log = tables.publications
    with api.dependencies.database.read() as connection:
        rows = connection.execute(sa.select(log).order_by(log.c.sequence)).all()
    assert [(row.what, row.digest, row.subject) for row in rows] == [
        ("published", first.digest, "provider"),
        ("replaced", second.digest, "provider"),
        ("withdrawn", second.digest, "provider"),
    ]
    assert all(abs(row.at - api.clock()) < 60 for row in rows)


@pytest.mark.parametrize("who", ["alice", "reader", "operator"])
def test_only_providers_publish(api: InProcessApi, who: str) -> None:
    packed = api.bundle()
    assert api.put_bundle(packed, who).status == 403
    api.put_bundle(packed)
    answer = api.ask(who, "POST", "/published/", {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}})
    assert answer.status == 403
    assert "provider" in answer.text
    assert TYPE not in kinds(api)


def test_a_service_belongs_to_its_first_publisher(api: InProcessApi) -> None:
    api.publish_demo()
    answer = api.publish(api.bundle("theirs", version="9"), "rival")
    assert answer.status == 403
    assert api.attributes(api.order())["org.archelon.bundle.version"] == "1"
    assert api.ask("rival", "GET", "/published/").json.get("resources", []) == []


def test_an_entry_cannot_be_changed(api: InProcessApi) -> None:
    entry = api.publish_demo()
    other = api.bundle("second", version="2")
    api.put_bundle(other)
    for method in ("POST", "PUT"):
        answer = api.ask("provider", method, entry, {"kind": PUBLISHED, "attributes": {DIGEST: other.digest}})
        assert answer.status == 409
    assert api.attributes(entry, "provider")[DIGEST] != other.digest


def test_an_entry_may_be_put_at_a_chosen_path_and_repeated(api: InProcessApi) -> None:
    packed = api.bundle()
    api.put_bundle(packed)
    path, body = (
        "/published/3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55",
        {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}},
    )
    assert api.ask("provider", "PUT", path, body).status == 201
    assert api.ask("provider", "PUT", path, body).status == 200
    # Another tenant may use the same path.
    theirs = api.bundle("theirs", service_type=OTHER)
    api.put_bundle(theirs, "rival")
    answer = api.ask("rival", "PUT", path, {"kind": PUBLISHED, "attributes": {DIGEST: theirs.digest}})
    assert answer.status == 201, answer.body


def test_a_bad_bundle_is_refused_with_every_problem(api: InProcessApi) -> None:
    manifest = [
        "service_type: http://schemas.example.org/occi/sm#bad",
        "service_attributes:",
        "  demo.size: {type: number, default: many}",
        "  occi.mine: immutable",
        "service_actions: {stop: {}}",
    ]
    archive = bundles.pack_files({"manifest.yaml": bundles.PackedFile("\n".join(manifest).encode(), False)})
    path = f"/bundle/{bundles.digest_of(archive)}"
    answer = api.ask("provider", "PUT", path, archive, kind="application/gzip")
    assert answer.status == 400
    text = answer.json["error"]["message"]
    for place in ("manifest.yaml:3:", "manifest.yaml:4:", "manifest.yaml:5:"):
        assert place in text
    assert "choose another term" in text


def test_an_invalid_archive_is_refused(api: InProcessApi) -> None:
    digest = bundles.digest_of(b"not an archive")
    answer = api.ask("provider", "PUT", f"/bundle/{digest}", b"not an archive", kind="application/gzip")
    assert answer.status == 400
    assert api.ask("provider", "PUT", "/bundle/" + "0" * 64, b"x", kind="application/gzip").status == 400
    assert api.ask("provider", "PUT", f"/bundle/{digest}", b"x", kind="text/plain").status == 400
    refused = api.ask("provider", "POST", "/published/", {"kind": PUBLISHED, "attributes": {DIGEST: "0" * 64}})
    assert refused.status == 400
    assert "PUT its archive" in refused.text


def test_a_bundle_belongs_to_every_tenant_that_uploads_it(api: InProcessApi) -> None:
    packed = api.bundle()
    path = f"/bundle/{packed.digest}"
    absent = api.ask("rival", "GET", path)
    assert api.put_bundle(packed).status == 201
    # For another tenant it does not exist: it can neither be read nor published, and is uploaded as new.
    for method in ("GET", "HEAD"):
        assert api.ask("rival", method, path).status == 404
    assert api.ask("rival", "GET", path).text == absent.text
    publish = {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}}
    refused = api.ask("rival", "POST", "/published/", publish)
    assert (refused.status, "PUT its archive" in refused.text) == (400, True)
    assert api.put_bundle(packed, "rival").status == 201
    assert [api.put_bundle(packed, who).status for who in ("provider", "rival")] == [200, 200]
    answers = [api.ask(who, "GET", path, accept=None) for who in ("provider", "rival", "operator")]
    assert [(each.status, each.body == packed.archive) for each in answers] == [(200, True)] * 3
    assert [api.ask(who, "GET", path).status for who in ("alice", "reader")] == [403, 403]


def test_a_bundle_has_a_limit(tmp_path: Path, template: Template) -> None:
    api = InProcessApi(tmp_path, template, bundle_limit=1024)
    archive = b"x" * 2000
    answer = api.ask("provider", "PUT", f"/bundle/{bundles.digest_of(archive)}", archive, kind="application/gzip")
    assert answer.status == 413
    api.close()


@pytest.mark.parametrize("term", ["record", "published", "bundle", "operator", "dependency", "resource", "hurtle"])
def test_reserved_terms_are_refused(api: InProcessApi, term: str) -> None:
    answer = api.publish(api.bundle(service_type=f"http://schemas.example.org/occi/sm#{term}"))
    assert answer.status == 409
    assert term in answer.text


def test_a_location_belongs_to_one_service(api: InProcessApi) -> None:
    api.publish_demo()
    answer = api.publish(api.bundle("namesake", service_type="http://elsewhere.example.org/sm#demo"))
    assert answer.status == 409
    assert TYPE in answer.text
    assert "/demo/" in answer.text


def test_a_dependency_cycle_is_named(api: InProcessApi) -> None:
    api.publish_demo(depends_on=[{OTHER: {}}])
    answer = api.publish(api.bundle("other", service_type=OTHER, depends_on=[{TYPE: {}}]))
    assert answer.status == 409
    assert TYPE in answer.text
    assert OTHER in answer.text
    assert OTHER not in kinds(api)


def test_inputs_that_a_published_supplier_does_not_have_are_refused(api: InProcessApi) -> None:
    third = "http://schemas.example.org/occi/sm#third"
    wrong = [{TYPE: {}}, {third: {"inputs": [f"{TYPE}#mcn.endpoint.pl"]}}]
    composed = api.bundle("other", service_type=OTHER, depends_on=wrong)
    # Nothing is known of either supplier.
    assert api.publish(composed).status == 201
    api.publish_demo()
    answer = api.publish(composed)
    assert answer.status == 409
    assert (
        f"{TYPE} has no attribute mcn.endpoint.pl; take one of demo.password, demo.size, mcn.endpoint.p1" in answer.text
    )
    assert "manifest.json:1:" in answer.text
    # The supplier's own provider is not affected by what others have written, and a withdrawn supplier is unknown again.
    demo = api.publish_demo(version="2")
    assert api.ask("provider", "DELETE", demo).status == 200
    assert api.publish(composed).status == 201
    api.publish_demo()
    right = [{TYPE: {}}, {third: {"inputs": [f"{TYPE}#mcn.endpoint.p1", f"{TYPE}#mcn.service.state"]}}]
    assert api.publish(api.bundle("other", service_type=OTHER, depends_on=right)).status == 201


def test_one_service_manager_serves_several_services(api: InProcessApi) -> None:
    api.publish_demo()
    api.publish(api.bundle("other", service_type=OTHER))
    assert {TYPE, OTHER} <= set(kinds(api))
    ordered = path_of(api.ask("alice", "POST", "/other/", {"kind": OTHER}))
    assert ordered.startswith("/other/")
    assert len(api.ask("alice", "GET", "/other/").json["resources"]) == 1
    assert api.ask("alice", "GET", "/demo/").json == {}


def test_a_withdrawn_services_kind_says_so(api: InProcessApi) -> None:
    entry = api.publish_demo()
    assert wire.WITHDRAWN not in kinds(api)[TYPE]["attributes"]
    api.ask("provider", "DELETE", entry)
    # It is still listed: its instances remain.
    assert kinds(api)[TYPE]["attributes"][wire.WITHDRAWN]["type"] == "boolean"
    api.publish_demo()
    assert wire.WITHDRAWN not in kinds(api)[TYPE]["attributes"]


def test_a_publication_that_fails_leaves_later_ones_visible(api: InProcessApi) -> None:
    # The process that has refused one must not count it as loaded.
    api.publish_demo()
    api.publish(api.bundle("namesake", service_type="http://elsewhere.example.org/sm#demo"))
    api.publish(api.bundle("other", service_type=OTHER))
    assert OTHER in kinds(api)


@pytest.mark.parametrize("padding", ["", "x" * 20_000])
def test_every_file_of_a_bundle_is_checked(api: InProcessApi, padding: str) -> None:
    template = f"infra_name: a\nfoo: bar\nnodes: []\n#{padding}"
    code = f"import sdk\nclass A: pass\n#{padding}"
    files = {
        "manifest.json": bundles.PackedFile(json.dumps(MANIFEST).encode()),
        "deployment.yaml": bundles.PackedFile(template.encode()),
        "orchestrator.py": bundles.PackedFile(code.encode()),
    }
    archive = bundles.pack_files(files)
    answer = api.put_bundle(bundles.Packed(archive, bundles.digest_of(archive)))
    assert answer.status == 400
    assert "deployment.yaml:2:6: the description has no 'foo'; expected one of" in answer.text
    assert "orchestrator.py:2:1: no class derives from sdk.Orchestrator; " in answer.text
    services._CHILD.close()


def test_keys_of_nodes_are_checked(api: InProcessApi) -> None:
    def upload(node: str) -> tuple[int, str]:
        template = f"infra_name: a\nnodes: [{{name: a, type: t}}]\n'node_def:t':\n- resource: {node}\n"
        files = {
            "manifest.json": bundles.PackedFile(json.dumps(MANIFEST).encode()),
            "deployment.yaml": bundles.PackedFile(template.encode()),
        }
        archive = bundles.pack_files(files)
        answer = api.put_bundle(bundles.Packed(archive, bundles.digest_of(archive)))
        return answer.status, answer.text

    for node, problem in {
        "{type: process, comand: [a]}": "4:37: the resource 'process' has no 'comand'; did you mean 'command'?",
        "{type: process}": "4:13: a process needs exactly one command; write `command: [program, argument, …]`",
        "{type: pod, imag: a}": "4:31: the resource 'pod' has no 'imag'; did you mean 'image'?",
        "{type: pod, ports: {a: 65536}}": "4:36: a pod's port is a number from 1 to 65535; correct it",
    }.items():
        status, text = upload(node)
        assert status == 400
        assert f"deployment.yaml:{problem}" in text
    assert upload("{type: vm, comand: [a]}")[0] == 201


def test_a_stored_bundle_is_not_refused_by_later_checks(api: InProcessApi, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = api.bundle()
    assert api.put_bundle(packed).status == 201
    monkeypatch.setattr(services, "_check", None)
    assert api.dependencies.catalogue.manifest(packed.digest).term == "demo"


def test_a_bundle_is_unpacked_outside_of_a_transaction(api: InProcessApi, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack, unpacked = services._manifest_of, []

    def meanwhile(digest: str, archive: bytes, *, checked: bool) -> Any:
        # This would deadlock if the upload's transaction were open.
        with api.dependencies.database.write():
            unpacked.append(digest)
        return unpack(digest, archive, checked=checked)

    monkeypatch.setattr(services, "_manifest_of", meanwhile)
    packed = api.bundle()
    assert [api.put_bundle(packed).status for _ in range(2)] == [201, 200]
    assert unpacked == [packed.digest]


def test_one_of_several_concurrent_uploads_is_the_first(api: InProcessApi) -> None:
    packed = api.bundle()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [each.result().status for each in [pool.submit(api.put_bundle, packed) for _ in range(4)]]
    assert sorted(answers) == [200, 200, 200, 201]


@pytest.mark.parametrize(
    "changes",
    [
        {"service_attributes": {"demo.size": {"type": "number", "default": 2**63}}},
        {"service_actions": {"poke": {"attributes": {"force": {"type": "number", "default": 2**63}}}}},
        {"service_type": "http://schemas.example.org/\u00e9#demo"},
    ],
)
def test_a_bundle_without_a_valid_kind_is_not_stored(api: InProcessApi, changes: dict[str, Any]) -> None:
    refused = api.put_bundle(make_bundle(api.directory / "odd", **changes))
    assert refused.status == 400
    assert (
        "demo.size" in refused.text
        or "force" in refused.text
        or "service_type" in refused.text
        or "#demo" in refused.text
    )


def test_a_service_that_cannot_be_served_does_not_affect_others(
    api: InProcessApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attributes = {"service_attributes": {"odd.size": {"type": "number", "default": 2**63}}}
    odd = make_bundle(api.directory / "odd", service_type=OTHER, **attributes)
    with monkeypatch.context() as earlier:
        earlier.setattr(services, "_check_kind", lambda _manifest: None)
        assert api.publish(odd).status == 201
    api.publish_demo()
    for web in (api.web, api.another_process()):
        assert OTHER not in kinds(api, web=web)
        assert TYPE in kinds(api, web=web)
    assert api.order()
    assert {getattr(record, "service", None) for record in caplog.records if record.levelname == "ERROR"} == {OTHER}
