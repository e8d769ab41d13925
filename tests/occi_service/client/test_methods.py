"""Every method in every rendering, against the real application under gunicorn."""

from __future__ import annotations

import concurrent.futures
import uuid
from collections.abc import Callable

import pytest

from occi_service import client
from occi_service.client import EntityDocument, Reference

INFRASTRUCTURE = "http://schemas.ogf.org/occi/infrastructure#"
COMPUTE = INFRASTRUCTURE + "compute"
NETWORK = INFRASTRUCTURE + "network"
INTERFACE = INFRASTRUCTURE + "networkinterface"
THING = "http://example.org/occi/test#thing"
TAGGED = "http://example.org/occi/test#tagged"
COLOUR = "http://example.org/occi/test/action#colour"


def test_create_get_update_delete(occi: client.Client) -> None:
    path = occi.create(COMPUTE, {"occi.compute.hostname": 'a, b; c="d"'}, title="first")
    assert path.startswith("/compute/")
    entity = occi.get(path)
    assert entity.location == path
    assert entity.kind == COMPUTE
    assert entity.id == "urn:uuid:" + path.removeprefix("/compute/")
    assert entity.title == "first"
    assert entity.attributes == {"occi.compute.hostname": 'a, b; c="d"'}
    assert entity.etag is not None
    changed = occi.update(path, {"occi.compute.hostname": "e"}, title="second", summary="what for")
    assert (changed.title, changed.summary, changed.attributes) == (
        "second",
        "what for",
        {"occi.compute.hostname": "e"},
    )
    assert occi.exists(path)
    occi.delete(path)
    assert not occi.exists(path)
    with pytest.raises(client.NotFoundError) as caught:
        occi.get(path)
    assert caught.value.status == 404
    assert caught.value.where == "path"
    assert path in caught.value.message


def test_a_service_without_dry_runs_does_not_carry_them_out(occi: client.Client) -> None:
    path = occi.create(THING, {"test.number": 1})
    known = set(occi.locations("/thing/"))
    for where, kind in (("/thing/", THING), (path, None)):
        with pytest.raises(client.BadRequestError, match="no dry runs"):
            occi.dry_run(where, *([kind] if kind else []), attributes={"test.number": 2})
    assert set(occi.locations("/thing/")) == known
    assert occi.get(path).attributes["test.number"] == 1


def test_get_with_etag(occi: client.Client) -> None:
    path = occi.create(THING, {"test.number": 1})
    entity = occi.get(path)
    assert entity.etag is not None
    assert occi.get(path, etag=entity.etag) is None
    occi.update(path, {"test.number": 2}, if_match=entity.etag)
    newer = occi.get(path, etag=entity.etag)
    assert newer is not None
    assert newer.attributes["test.number"] == 2
    for write in (
        lambda: occi.update(path, {"test.number": 3}, if_match=entity.etag),
        lambda: occi.put(path, THING, {"test.number": 3}, if_match=entity.etag),
        lambda: occi.delete(path, if_match=entity.etag),
    ):
        with pytest.raises(client.PreconditionFailedError):
            write()
    assert occi.get(path).attributes["test.number"] == 2


def test_put_creates_then_replaces(occi: client.Client) -> None:
    path = f"/thing/{uuid.uuid4()}"
    entity, created = occi.put(path, THING, {"test.string": "x", "test.number": 1.5})
    assert created
    assert entity.location == path
    assert entity.attributes == {"test.string": "x", "test.number": 1.5, "test.state": "new"}
    replaced, created = occi.put(path, THING, {"test.boolean": True}, title="whole")
    assert not created
    assert replaced.attributes == {"test.boolean": True, "test.state": "new"}
    assert replaced.title == "whole"
    assert replaced == occi.get(path) or replaced.etag is None


def test_put_returns_what_was_given_without_reading_it(occi: client.Client) -> None:
    path = f"/thing/{uuid.uuid4()}"
    entity, created = occi.put(path, THING, {"test.string": "x"}, title="whole", read=False)
    assert created
    assert (entity.location, entity.kind, entity.title) == (path, THING, "whole")
    assert entity.attributes == {"test.string": "x"}
    replaced, created = occi.put(path, THING, {"test.string": "y"}, read=False)
    assert not created
    assert replaced.attributes == {"test.string": "y", "test.state": "new"}


def test_act(occi: client.Client) -> None:
    path = occi.create(THING)
    assert occi.get(path).actions == (COLOUR,)
    assert occi.act(path, COLOUR, {"colour": "red, or = blue"}).attributes["test.state"] == "red, or = blue"
    occi.invoke(path, COLOUR, {"colour": "blue"})
    assert occi.get(path).attributes["test.state"] == "blue"
    other = occi.create(THING)
    occi.act_on_all("/thing/", COLOUR, {"colour": "green"})
    assert {occi.get(each).attributes["test.state"] for each in (path, other)} == {"green"}
    with pytest.raises(client.BadRequestError, match="colour is required"):
        occi.act(path, COLOUR)


def test_links(occi: client.Client) -> None:
    compute = occi.create(COMPUTE)
    network = occi.create(NETWORK)
    inner = occi.link(INTERFACE, compute, network, {"occi.networkinterface.mac": "00:11"}, title="eth0")
    outer = occi.link(INTERFACE, compute, "https://elsewhere.example.org/net/1")
    link = occi.get(inner)
    assert link.is_link
    assert (link.source, link.source_kind) == (compute, COMPUTE)
    assert (link.target, link.target_kind) == (network, NETWORK)
    assert occi.get(outer).target == "https://elsewhere.example.org/net/1"
    found = {each.location: each for each in occi.get(compute).links}
    assert found.keys() == {inner, outer}
    assert found[inner].kind == INTERFACE
    assert found[inner].source == compute
    assert found[inner].target == network
    assert found[inner].title == "eth0"
    assert found[inner].attributes == {"occi.networkinterface.mac": "00:11"}
    occi.delete(compute)
    assert not occi.exists(inner)


def test_resource_with_links_in_one_document(occi: client.Client) -> None:
    network = occi.create(NETWORK)
    document = EntityDocument(kind=COMPUTE, links=[EntityDocument(kind=INTERFACE, target=Reference(network, NETWORK))])
    path = occi.create(document)
    (link,) = occi.get(path).links
    assert (link.source, link.target) == (path, network)
    assert occi.get(link.location).target == network


def test_list_and_locations(occi: client.Client) -> None:
    paths = [occi.create(THING, {"test.number": index % 2}) for index in range(7)]
    occi.create(COMPUTE)
    assert [each.location for each in occi.list("/thing/", number=3)] == paths
    assert [each.attributes["test.number"] for each in occi.list(THING)] == [0, 1, 0, 1, 0, 1, 0]
    assert list(occi.locations("/thing/", number=7)) == paths
    assert list(occi.locations("/thing/", page=2, number=3)) == paths[3:6]
    assert list(occi.locations("/thing/", page=9, number=3)) == []
    assert list(occi.locations("/thing/", attributes={"test.number": 1})) == paths[1::2]
    assert list(occi.locations("/", categories=[THING])) == paths
    resource = ["http://schemas.ogf.org/occi/core#resource"]
    assert len(list(occi.locations("/", categories=resource, number=3))) == 8
    assert list(occi.locations("/", categories=resource, attributes={"test.number": client.ANY}, number=3)) == paths
    assert list(occi.locations("/", attributes={"test.string": "*"})) == []
    assert len(list(occi.locations("/"))) == 8
    occi.delete_all(THING)
    assert list(occi.list("/thing/")) == []


def test_list_asks_for_pages_when_reached(occi: client.Client) -> None:
    for _ in range(4):
        occi.create(THING)
    found = occi.list("/thing/", number=2)
    next(found)
    occi.delete_all("/thing/")
    assert len(list(found)) <= 1


def test_filter_with_text(occi: client.Client) -> None:
    text = 'é, "quoted"; \\ = ю'
    wanted = occi.create(THING, {"test.string": text})
    occi.create(THING, {"test.string": "other"})
    assert list(occi.locations(THING, attributes={"test.string": text})) == [wanted]


def test_mixin_members(occi: client.Client) -> None:
    first, second, third = (occi.create(COMPUTE) for _ in range(3))
    occi.attach(TAGGED, [first, second])
    assert set(occi.locations("/tagged/")) == {first, second}
    assert occi.get(first).mixins == (TAGGED,)
    occi.replace_members("/tagged/", [second, third])
    assert set(occi.locations(TAGGED)) == {second, third}
    occi.detach(TAGGED, [third])
    assert set(occi.locations(TAGGED)) == {second}
    occi.replace_members(TAGGED, [])
    assert set(occi.locations(TAGGED)) == set()
    occi.attach(TAGGED, [first])
    occi.detach(TAGGED)
    assert occi.get(first).mixins == ()
    with pytest.raises(client.NotFoundError):
        occi.attach(TAGGED, ["/compute/none"])


def test_own_mixin(occi: client.Client) -> None:
    name = "http://example.org/mine#tag"
    path = occi.create(COMPUTE)
    occi.define_mixin(name, "/my_tag/", title='Mine, and "mine" alone', applies=[COMPUTE])
    try:
        found = {each.type_id: each for each in occi.categories()}[name]
        assert (found.category_class, found.location) == ("mixin", "/my_tag/")
        assert found.title == 'Mine, and "mine" alone'
        occi.attach(name, [path])
        assert list(occi.locations(name)) == [path]
        assert occi.get(path).mixins == (name,)
        with pytest.raises(client.ConflictError):
            occi.define_mixin(name, "/my_tag/")
    finally:
        occi.remove_mixin(name)
    assert occi.get(path).mixins == ()
    with pytest.raises(client.UnknownCategoryError):
        occi.attach(name, [path])
    with pytest.raises(client.ForbiddenError):
        occi.remove_mixin(TAGGED)


def test_categories(occi: client.Client) -> None:
    found = {each.type_id: each for each in occi.categories()}
    assert found[COMPUTE].location == "/compute/"
    assert found[COMPUTE].category_class == "kind"
    assert found[THING].attributes["test.state"].mutable is False
    assert COLOUR in found[THING].actions
    narrowed = {each.type_id for each in occi.categories([THING])}
    assert {THING, COLOUR} <= narrowed
    assert COMPUTE not in narrowed


def test_methods(occi: client.Client) -> None:
    assert occi.methods("/compute/") == {"DELETE", "GET", "HEAD", "OPTIONS", "POST"}
    assert "PUT" in occi.methods("/compute/x")


def test_bad_requests_name_the_place(occi: client.Client) -> None:
    with pytest.raises(client.BadRequestError) as caught:
        occi.create(THING, {"test.number": "many"})
    assert caught.value.where == "attributes.test.number"
    assert caught.value.message == "test.number has to be a number"
    assert caught.value.method == "POST"
    assert caught.value.url.endswith("/thing/")
    with pytest.raises(client.UnknownCategoryError):
        occi.create("http://example.org/none#none")


@pytest.mark.parametrize(
    "operation",
    [
        lambda occi: occi.delete("/compute/"),
        lambda occi: occi.act("/compute/", COLOUR),
        lambda occi: occi.invoke("/compute/", COLOUR),
        lambda occi: occi.get("https://elsewhere.example.org/compute/1"),
        lambda occi: occi.get("//elsewhere.example.org/compute/1"),
        lambda occi: occi.get("/compute/a b"),
        lambda occi: occi.get("/compute/../-/"),
        lambda occi: occi.get("/compute/a\r\nX-Auth-Token: b"),
        lambda occi: list(occi.list("/compute")),
        lambda occi: list(occi.list("/compute/", number=0)),
        lambda occi: occi.create("compute"),
    ],
)
def test_invalid_arguments_are_refused(occi: client.Client, operation: Callable[[client.Client], object]) -> None:
    with pytest.raises(ValueError):
        operation(occi)


def test_below_a_mount_point(service_url: str, rendering: client.MediaType) -> None:
    with client.Client(service_url + "/mounted/here/", rendering=rendering) as occi:
        occi.delete_all(INTERFACE)
        occi.delete_all(COMPUTE)
        path = occi.create(COMPUTE)
        assert path.startswith("/compute/")
        network = occi.create(NETWORK)
        link = occi.link(INTERFACE, path, network)
        assert occi.get(path).location == path
        assert [each.location for each in occi.get(path).links] == [link]
        assert occi.get(link).target == network
        assert list(occi.locations(COMPUTE)) == [path]
        assert [each.location for each in occi.list("/compute/")] == [path]
        assert occi.get(f"{service_url}/mounted/here{path}").location == path
        occi.attach(TAGGED, [path])
        assert list(occi.locations(TAGGED)) == [path]
        chosen = f"/compute/{uuid.uuid4()}"
        assert occi.put(chosen, COMPUTE)[0].location == chosen
        with pytest.raises(ValueError, match="not below"):
            occi.get(f"{service_url}/compute/1")


def test_follow(occi: client.Client) -> None:
    assert "".join(occi.follow("/log?since=12")) == "one\ntwö\nsince 12\n"
    with pytest.raises(client.NotFoundError):
        next(occi.follow("/no/log"))


def test_follow_can_be_closed(occi: client.Client) -> None:
    pieces = occi.follow("/log")
    assert next(pieces).startswith("one")
    pieces.close()  # type: ignore[attr-defined]
    assert occi.exists("/compute/")


@pytest.mark.parametrize("size", [0, 1, 300_000, 5_000_000])
def test_bytes(occi: client.Client, size: int) -> None:
    content = (uuid.uuid4().bytes * (size // 16 + 1))[:size]
    path = f"/bundle/{uuid.uuid4().hex}"
    assert occi.put_bytes(path, content, "application/gzip") is True
    assert occi.get_bytes(path, accept="application/gzip") == content
    pieces = (content[start : start + 70_000] for start in range(0, size, 70_000))
    assert occi.put_bytes(path, pieces, "application/gzip") is False
    assert occi.get_bytes(path) == content
    if size:
        with pytest.raises(client.AnswerTooLargeError):
            occi.get_bytes(path, limit=size - 1)


def test_threads_share_a_client(occi: client.Client) -> None:
    def life(index: int) -> object:
        path = occi.create(THING, {"test.number": index})
        seen = occi.get(path).attributes["test.number"]
        occi.delete(path)
        return seen

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(life, range(60))) == list(range(60))


def test_connections_are_kept(service_url: str) -> None:
    with client.Client(service_url) as occi:
        for _ in range(20):
            occi.exists("/compute/")
        assert len(occi._exchange.connections._idle) == 1


def test_what_must_not_be_repeated_is_not_sent_on_a_connection_that_was_idle(service_url: str) -> None:
    with client.Client(service_url) as occi:
        occi.create(COMPUTE)
        idle = occi._exchange.connections._idle
        [first] = idle
        first.idle_since -= 1.0
        occi.exists("/compute/")
        assert [*idle] == [first]
        first.idle_since -= 1.0
        occi.create(COMPUTE)
        assert first in idle
        assert len(idle) == 2


def test_using_shares_connections_and_differs(occi: client.Client) -> None:
    other = occi.using(rendering="text/plain", request_id="r-1")
    path = other.create(COMPUTE)
    assert occi.get(path).kind == COMPUTE
    other.close()
    assert occi.exists(path)
