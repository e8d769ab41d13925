"""Publishing, replacing and withdrawing a service, and what is refused."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import bundles
from archelon_api import service_manager as wire
from service_manager.store import services, tables
from tests.occi_service.server.calls import path_of

from ..harness import TYPE, make_bundle
from .desk import DIGEST, PUBLISHED, Desk, Template

OTHER = "http://schemas.example.org/occi/sm#other"


def kinds(desk: Desk, who: str = "alice", web: object = None) -> list[str]:
    found = desk.ask(who, "GET", "/-/", web=web).json["kinds"]
    return [each["scheme"] + each["term"] for each in found]


def test_a_bundle_is_kept_once_and_given_back(desk: Desk) -> None:
    packed = desk.bundle()
    assert desk.put_bundle(packed).status == 201
    assert desk.put_bundle(packed).status == 200
    answer = desk.ask("provider", "GET", f"/bundle/{packed.digest}", accept=None)
    assert (answer.status, answer.body) == (200, packed.archive)


def test_what_is_published_can_be_ordered_at_once(desk: Desk) -> None:
    assert TYPE not in kinds(desk)
    entry = desk.publish_demo()
    assert TYPE in kinds(desk)
    shown = desk.attributes(entry, "provider")
    assert shown["org.archelon.service"] == TYPE
    assert shown["org.archelon.bundle.version"] == "1"
    assert shown["org.archelon.published.by"] == "provider"
    assert shown["org.archelon.published.state"] == "published"
    assert desk.attributes(desk.order())[wire.STATE] == "initialise"


def test_every_web_process_sees_it_at_once(desk: Desk) -> None:
    other = desk.another_process()
    assert TYPE not in kinds(desk, web=other)
    desk.publish_demo()
    assert TYPE in kinds(desk, web=other)
    assert desk.ask("bob", "GET", "/demo/", web=other).status == 200
    # Replaced: an order that the new manifest takes is taken by whoever is asked.
    attributes = {"demo.size": {"type": "number"}, "demo.colour": ""}
    desk.publish_demo(version="2", service_attributes=attributes)
    ordered = desk.ask("alice", "POST", "/demo/", {"kind": TYPE, "attributes": {"demo.colour": "red"}}, web=other)
    assert ordered.status == 201, ordered.body
    entry = desk.ask("provider", "GET", "/published/").json["resources"][-1]["id"].removeprefix("urn:uuid:")
    assert desk.ask("provider", "DELETE", f"/published/{entry}").status == 200
    assert desk.ask("alice", "POST", "/demo/", {"kind": TYPE}, web=other).status == 409


def test_replacing_marks_the_entry_before(desk: Desk) -> None:
    first = desk.publish_demo()
    second = desk.publish_demo(version="2")
    assert desk.attributes(first, "provider")["org.archelon.published.state"] == "replaced"
    assert desk.attributes(second, "provider")["org.archelon.published.state"] == "published"
    refused = desk.ask("provider", "DELETE", first)
    assert refused.status == 409
    assert second in refused.text
    assert desk.attributes(desk.order())["org.archelon.bundle.version"] == "2"


def test_withdrawn_it_takes_no_orders_and_its_instances_live_on(desk: Desk) -> None:
    entry = desk.publish_demo()
    path = desk.order()
    assert desk.ask("provider", "DELETE", entry).status == 200
    assert desk.ask("provider", "DELETE", entry).status == 200
    assert desk.attributes(entry, "provider")["org.archelon.published.state"] == "withdrawn"
    refused = desk.ask("alice", "POST", "/demo/", {"kind": TYPE})
    assert refused.status == 409
    assert "withdrawn" in refused.text
    assert desk.ask("alice", "POST", path, {"attributes": {"demo.size": 3}}).status == 200
    assert desk.ask("alice", "DELETE", path).status == 200
    # Published again, it takes orders again.
    desk.publish_demo()
    assert desk.order()


def test_who_published_what_is_kept(desk: Desk) -> None:
    first, second = desk.bundle(), desk.bundle("second", version="2")
    desk.publish(first)
    entry = path_of(desk.publish(second))
    desk.ask("provider", "DELETE", entry)
    log = tables.publications
    with desk.parts.database.read() as connection:
        rows = connection.execute(sa.select(log).order_by(log.c.sequence)).all()
    assert [(row.what, row.digest, row.subject) for row in rows] == [
        ("published", first.digest, "provider"),
        ("replaced", second.digest, "provider"),
        ("withdrawn", second.digest, "provider"),
    ]
    assert all(abs(row.at - desk.clock()) < 60 for row in rows)


@pytest.mark.parametrize("who", ["alice", "reader", "operator"])
def test_only_providers_publish(desk: Desk, who: str) -> None:
    packed = desk.bundle()
    assert desk.put_bundle(packed, who).status == 403
    desk.put_bundle(packed)
    answer = desk.ask(who, "POST", "/published/", {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}})
    assert answer.status == 403
    assert "provider" in answer.text
    assert TYPE not in kinds(desk)


def test_a_service_stays_its_publishers(desk: Desk) -> None:
    desk.publish_demo()
    answer = desk.publish(desk.bundle("theirs", version="9"), "rival")
    assert answer.status == 403
    assert desk.attributes(desk.order())["org.archelon.bundle.version"] == "1"
    assert desk.ask("rival", "GET", "/published/").json.get("resources", []) == []


def test_an_entry_says_what_was_published_and_stays_so(desk: Desk) -> None:
    entry = desk.publish_demo()
    other = desk.bundle("second", version="2")
    desk.put_bundle(other)
    for method in ("POST", "PUT"):
        answer = desk.ask("provider", method, entry, {"kind": PUBLISHED, "attributes": {DIGEST: other.digest}})
        assert answer.status == 409
    assert desk.attributes(entry, "provider")[DIGEST] != other.digest


def test_an_entry_may_be_put_at_a_path_of_ones_own_and_repeated(desk: Desk) -> None:
    packed = desk.bundle()
    desk.put_bundle(packed)
    path, body = (
        "/published/3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55",
        {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}},
    )
    assert desk.ask("provider", "PUT", path, body).status == 201
    assert desk.ask("provider", "PUT", path, body).status == 200
    # Another tenant's may be at the same path.
    theirs = desk.bundle("theirs", service_type=OTHER)
    desk.put_bundle(theirs, "rival")
    answer = desk.ask("rival", "PUT", path, {"kind": PUBLISHED, "attributes": {DIGEST: theirs.digest}})
    assert answer.status == 201, answer.body


def test_a_bad_bundle_is_answered_with_every_problem(desk: Desk) -> None:
    manifest = [
        "service_type: http://schemas.example.org/occi/sm#bad",
        "service_attributes:",
        "  demo.size: {type: number, default: many}",
        "  occi.mine: immutable",
        "service_actions: {stop: {}}",
    ]
    archive = bundles.pack_files({"manifest.yaml": bundles.PackedFile("\n".join(manifest).encode(), False)})
    path = f"/bundle/{bundles.digest_of(archive)}"
    answer = desk.ask("provider", "PUT", path, archive, kind="application/gzip")
    assert answer.status == 400
    text = answer.json["error"]["message"]
    for place in ("manifest.yaml:3:", "manifest.yaml:4:", "manifest.yaml:5:"):
        assert place in text
    assert "choose another term" in text


def test_what_is_no_archive_is_refused(desk: Desk) -> None:
    digest = bundles.digest_of(b"not an archive")
    answer = desk.ask("provider", "PUT", f"/bundle/{digest}", b"not an archive", kind="application/gzip")
    assert answer.status == 400
    assert desk.ask("provider", "PUT", "/bundle/" + "0" * 64, b"x", kind="application/gzip").status == 400
    assert desk.ask("provider", "PUT", f"/bundle/{digest}", b"x", kind="text/plain").status == 400
    refused = desk.ask("provider", "POST", "/published/", {"kind": PUBLISHED, "attributes": {DIGEST: "0" * 64}})
    assert refused.status == 400
    assert "PUT its archive" in refused.text


def test_a_bundle_belongs_to_every_tenant_that_uploads_it(desk: Desk) -> None:
    packed = desk.bundle()
    path = f"/bundle/{packed.digest}"
    absent = desk.ask("rival", "GET", path)
    assert desk.put_bundle(packed).status == 201
    # To a stranger it is as if it were not there: to read, to publish, to upload.
    for method in ("GET", "HEAD"):
        assert desk.ask("rival", method, path).status == 404
    assert desk.ask("rival", "GET", path).text == absent.text
    publish = {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}}
    refused = desk.ask("rival", "POST", "/published/", publish)
    assert (refused.status, "PUT its archive" in refused.text) == (400, True)
    assert desk.put_bundle(packed, "rival").status == 201
    assert [desk.put_bundle(packed, who).status for who in ("provider", "rival")] == [200, 200]
    answers = [desk.ask(who, "GET", path, accept=None) for who in ("provider", "rival", "operator")]
    assert [(each.status, each.body == packed.archive) for each in answers] == [(200, True)] * 3
    assert [desk.ask(who, "GET", path).status for who in ("alice", "reader")] == [403, 403]


def test_a_bundle_has_a_limit(tmp_path: Path, template: Template) -> None:
    desk = Desk(tmp_path, template, bundle_limit=1024)
    archive = b"x" * 2000
    answer = desk.ask("provider", "PUT", f"/bundle/{bundles.digest_of(archive)}", archive, kind="application/gzip")
    assert answer.status == 413
    desk.close()


@pytest.mark.parametrize("term", ["record", "published", "bundle", "operator", "dependency", "resource", "hurtle"])
def test_reserved_terms_are_refused(desk: Desk, term: str) -> None:
    answer = desk.publish(desk.bundle(service_type=f"http://schemas.example.org/occi/sm#{term}"))
    assert answer.status == 409
    assert term in answer.text


def test_a_location_belongs_to_one_service(desk: Desk) -> None:
    desk.publish_demo()
    answer = desk.publish(desk.bundle("namesake", service_type="http://elsewhere.example.org/sm#demo"))
    assert answer.status == 409
    assert TYPE in answer.text
    assert "/demo/" in answer.text


def test_a_circle_of_instantiation_is_named(desk: Desk) -> None:
    desk.publish_demo(depends_on=[{OTHER: {}}])
    answer = desk.publish(desk.bundle("other", service_type=OTHER, depends_on=[{TYPE: {}}]))
    assert answer.status == 409
    assert TYPE in answer.text
    assert OTHER in answer.text
    assert OTHER not in kinds(desk)


def test_one_service_manager_serves_several_services(desk: Desk) -> None:
    desk.publish_demo()
    desk.publish(desk.bundle("other", service_type=OTHER))
    assert {TYPE, OTHER} <= set(kinds(desk))
    ordered = path_of(desk.ask("alice", "POST", "/other/", {"kind": OTHER}))
    assert ordered.startswith("/other/")
    assert len(desk.ask("alice", "GET", "/other/").json["resources"]) == 1
    assert desk.ask("alice", "GET", "/demo/").json == {}


def test_a_publication_that_fails_leaves_later_ones_visible(desk: Desk) -> None:
    # The process that has refused one must not take it for seen.
    desk.publish_demo()
    desk.publish(desk.bundle("namesake", service_type="http://elsewhere.example.org/sm#demo"))
    desk.publish(desk.bundle("other", service_type=OTHER))
    assert OTHER in kinds(desk)


def test_a_bundle_is_unpacked_before_anything_is_locked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack, unpacked = services._manifest_of, []

    def meanwhile(digest: str, archive: bytes) -> Any:
        # It would wait for itself, were the upload's own transaction open.
        with desk.parts.database.write():
            unpacked.append(digest)
        return unpack(digest, archive)

    monkeypatch.setattr(services, "_manifest_of", meanwhile)
    packed = desk.bundle()
    assert [desk.put_bundle(packed).status for _ in range(2)] == [201, 200]
    assert unpacked == [packed.digest]


def test_of_uploads_at_once_one_is_the_first(desk: Desk) -> None:
    packed = desk.bundle()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [each.result().status for each in [pool.submit(desk.put_bundle, packed) for _ in range(4)]]
    assert sorted(answers) == [200, 200, 200, 201]


@pytest.mark.parametrize(
    "changes",
    [
        {"service_attributes": {"demo.size": {"type": "number", "default": 2**63}}},
        {"service_actions": {"poke": {"attributes": {"force": {"type": "number", "default": 2**63}}}}},
        {"service_type": "http://schemas.example.org/\u00e9#demo"},
    ],
)
def test_what_no_kind_can_be_made_of_is_not_kept(desk: Desk, changes: dict[str, Any]) -> None:
    refused = desk.put_bundle(make_bundle(desk.directory / "odd", **changes))
    assert refused.status == 400
    assert (
        "demo.size" in refused.text
        or "force" in refused.text
        or "service_type" in refused.text
        or "#demo" in refused.text
    )


def test_what_cannot_be_served_any_more_is_nobody_elses_trouble(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attributes = {"service_attributes": {"odd.size": {"type": "number", "default": 2**63}}}
    odd = make_bundle(desk.directory / "odd", service_type=OTHER, **attributes)
    with monkeypatch.context() as earlier:
        earlier.setattr(services, "_check_kind", lambda _manifest: None)
        assert desk.publish(odd).status == 201
    desk.publish_demo()
    for web in (desk.web, desk.another_process()):
        assert OTHER not in kinds(desk, web=web)
        assert TYPE in kinds(desk, web=web)
    assert desk.order()
    assert {getattr(record, "service", None) for record in caplog.records if record.levelname == "ERROR"} == {OTHER}
