"""A project that used `occi.wsgi.Application` migrates by changing that import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import occi.exceptions
import occi.registry
import pytest
from occi.backend import ActionBackend, KindBackend, MixinBackend
from occi.core_model import Action, Entity, Kind, Link, Mixin, Resource
from occi.extensions import infrastructure as infra
from occi.protocol.occi_rendering import TextOcciRendering, TextPlainRendering

import occi_service
from tests.occi_service.server.calls import HOST, JSON, call, path_of
from tests.occi_service.server.infrastructure import ACTIONS, COMPUTE, NETWORK, SCHEME, START, STORAGE, Calls, publish


class Secured(occi_service.Application):
    """The subclass of pyssf's documentation: extras for the backends."""

    def __call__(self, environ: dict[str, Any], response: Any) -> Iterable[bytes]:
        return self._call_occi(environ, response, security={"user": "jo"}, foo="bar")


class Listed(occi.registry.Registry):
    """A registry that only implements pyssf's abstract class."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []
        self.entities: dict[str, Entity] = {}
        self.renderers: dict[str, Any] = {}

    def get_renderer(self, mime_type: str) -> Any:
        return self.renderers[mime_type]

    def set_renderer(self, mime_type: str, renderer: Any) -> None:
        self.renderers[mime_type] = renderer

    def get_backend(self, category: Any, extras: Any) -> Any:
        for known, backend in self.pairs:
            if known == category:
                return backend
        raise AttributeError("Cannot find corresponding Backend.")

    def get_all_backends(self, entity: Entity, extras: Any) -> list[KindBackend]:
        return [self.get_backend(each, extras) for each in (entity.kind, *entity.mixins)]

    def set_backend(self, category: Any, backend: Any, extras: Any) -> None:
        self.pairs.append((category, backend))

    def delete_mixin(self, mixin: Mixin, extras: Any) -> None:
        self.pairs = [pair for pair in self.pairs if pair[0] != mixin]

    def get_category(self, path: str, extras: Any) -> Any:
        return next((known for known, _ in self.pairs if known.location == path), None)

    def get_categories(self, extras: Any) -> list[Any]:
        return [known for known, _ in self.pairs]

    def get_resource(self, key: str, extras: Any) -> Entity:
        return self.entities[key]

    def add_resource(self, key: str, entity: Entity, extras: Any) -> None:
        self.entities[key] = entity

    def delete_resource(self, key: str, extras: Any) -> None:
        self.entities.pop(key)

    def get_resource_keys(self, extras: Any) -> list[str]:
        return list(self.entities)

    def get_resources(self, extras: Any) -> list[Entity]:
        return list(self.entities.values())


class Subclassed(occi.registry.NonePersistentRegistry):
    """pyssf's own registry, including its ownership."""

    def get_extras(self, extras: Any) -> Any:
        return None if not extras else str(extras.get("security"))


@pytest.fixture(params=[None, Subclassed, occi.registry.NonePersistentRegistry, Listed])
def served(request: pytest.FixtureRequest, calls: Calls) -> Secured:
    """The extension on each kind of registry; without one, in memory."""
    application = Secured(request.param() if request.param else None)
    publish(application, calls)
    return application


def create(application: Any, category: str, location: str, attributes: str = "") -> str:
    headers = {"Category": category, "Content-Type": "text/occi"}
    if attributes:
        headers["X-OCCI-Attribute"] = attributes
    return path_of(call(application, "POST", location, headers))


def names(calls: Calls) -> list[str]:
    taken = [f"{name} {what}" for name, what, _ in calls]
    calls.clear()
    return taken


def test_the_life_of_a_resource_runs_through_its_backend_in_pyssfs_order(served: Secured, calls: Calls) -> None:
    path = create(served, COMPUTE, "/compute/", 'occi.compute.hostname="foo", occi.compute.cores=2')
    assert all(extras == {"security": {"user": "jo"}, "foo": "bar"} for _, _, extras in calls)
    assert names(calls) == ["compute create"]

    shown = call(served, "GET", path, accept=JSON).json
    assert names(calls) == ["compute retrieve"]
    assert shown["kind"] == SCHEME + "compute"
    assert shown["attributes"] == {
        "occi.compute.hostname": "foo",
        "occi.compute.cores": "2",
        "occi.compute.memory": "2",
        "occi.compute.state": "inactive",
        "occi.compute.speed": "1.33",
    }
    assert shown["actions"] == [ACTIONS + "start"]

    started = call(served, "POST", path, {"Category": START, "Content-Type": "text/occi"}, query="action=start")
    assert started.status == 200
    assert names(calls) == ["compute action start []"]
    assert call(served, "GET", path, accept=JSON).json["actions"] == [ACTIONS + "stop", ACTIONS + "suspend"]
    again = call(served, "POST", path, {"Category": START, "Content-Type": "text/occi"}, query="action=start")
    assert (again.status, again.text) == (400, "400 Bad Request: This action is currently not applicable.\n")
    calls.clear()

    assert call(served, "POST", path, body='X-OCCI-Attribute: occi.compute.memory="4"').status == 200
    assert names(calls) == ["compute update"]
    assert (
        call(served, "PUT", path, body=f'Category: {COMPUTE}\nX-OCCI-Attribute: occi.compute.cores="8"').status == 200
    )
    assert names(calls) == ["compute replace"]
    attributes = call(served, "GET", path, accept=JSON).json["attributes"]
    assert attributes["occi.compute.cores"] == "8"
    assert "occi.compute.memory" not in attributes
    calls.clear()

    assert call(served, "DELETE", path).status == 200
    assert names(calls) == ["compute delete"]
    assert call(served, "GET", path).status == 404
    assert names(calls) == []


def test_links_are_created_before_and_deleted_with_their_resource(served: Secured, calls: Calls) -> None:
    disk = create(served, STORAGE, "/storage/")
    calls.clear()
    created = call(
        served,
        "POST",
        "/compute/",
        body=f"Category: {COMPUTE}\n"
        f'Link: <{disk}>; rel="{SCHEME}storage"; category="{SCHEME}storagelink"; occi.storagelink.deviceid="sda"',
    )
    path = path_of(created)
    assert names(calls) == ["storagelink create", "compute create"]
    shown = call(served, "GET", path, accept=JSON).json
    assert names(calls) == ["storagelink retrieve", "compute retrieve"]
    (link,) = shown["links"]
    assert link["kind"] == SCHEME + "storagelink"
    assert link["target"] == {"location": disk, "kind": SCHEME + "storage"}
    assert link["source"] == {"location": path, "kind": SCHEME + "compute"}
    assert link["attributes"] == {"occi.storagelink.deviceid": "sda"}
    assert call(served, "DELETE", path).status == 200
    assert names(calls) == ["storagelink delete", "compute delete"]
    assert call(served, "GET", "/storage/link/", accept="text/uri-list").body == b""


def test_a_separate_link_appears_at_its_source_and_is_deleted_alone(served: Secured, calls: Calls) -> None:
    path, net = create(served, COMPUTE, "/compute/"), create(served, NETWORK, "/network/")
    interface = 'networkinterface; scheme="http://schemas.ogf.org/occi/infrastructure#"'
    ends = f'occi.core.source="http://{HOST}{path}", occi.core.target="{net}"'
    link = create(served, interface, "/network/interface/", ends)
    calls.clear()
    assert len(call(served, "GET", path, accept=JSON).json["links"]) == 1
    shown = call(served, "GET", link, accept=JSON).json
    assert shown["source"]["location"] == path
    assert shown["target"]["location"] == net
    assert call(served, "POST", link, body='X-OCCI-Attribute: occi.networkinterface.mac="aa"').status == 200
    calls.clear()
    assert call(served, "DELETE", link).status == 200
    assert names(calls) == ["networkinterface delete"]
    assert "links" not in call(served, "GET", path, accept=JSON).json


def test_mixins_have_their_backends_called_too(served: Secured, calls: Calls) -> None:
    net = create(
        served, f'{NETWORK}, ipnetwork; scheme="http://schemas.ogf.org/occi/infrastructure/network#"', "/network/"
    )
    assert sorted(names(calls)) == ["ipnetwork create", "network create"]
    assert call(served, "GET", net, accept=JSON).json["attributes"] == {"occi.network.allocation": "dynamic"}
    assert sorted(names(calls)) == ["ipnetwork retrieve", "network retrieve"]
    call(served, "POST", net, body='X-OCCI-Attribute: occi.network.label="blue"')
    assert sorted(names(calls)) == ["ipnetwork update", "network update"]
    call(served, "PUT", net, body=f"Category: {NETWORK}")
    # Both replace, then the mixin that was omitted deletes.
    assert names(calls)[-1:] == ["ipnetwork delete"]
    assert "mixins" not in call(served, "GET", net, accept=JSON).json
    calls.clear()
    update = 'Category: ipnetwork; scheme="http://schemas.ogf.org/occi/infrastructure/network#"; class="mixin"'
    assert call(served, "POST", net, body=update).status == 200
    assert names(calls) == ["network update", "ipnetwork create"]
    assert call(served, "DELETE", "/ipnetwork/").status == 200
    assert names(calls) == ["ipnetwork delete"]


def test_one_backend_for_several_categories_is_called_once(calls: Calls) -> None:
    class Both(MixinBackend):
        def create(self, entity: Entity, extras: Any) -> None:
            calls.append(("both", "create", extras))

        def retrieve(self, entity: Entity, extras: Any) -> None:
            calls.append(("both", "retrieve", extras))

    application = occi_service.Application()
    kind = Kind("http://example.org/a#", "k", [Resource.kind])
    mixins = [Mixin("http://example.org/a#", term) for term in ("m", "n")]
    both = Both()
    for category in (kind, *mixins):
        application.register_backend(category, both)
    path = create(application, 'k; scheme="http://example.org/a#"', "/k/")
    calls.clear()
    terms = "".join([f'Category: {term}; scheme="http://example.org/a#"; class="mixin"\n' for term in "mn"])
    assert call(application, "POST", path, body=terms).status == 200
    # It served the kind already: pyssf calls create only for backends that are new to the entity.
    assert names(calls) == []
    call(application, "GET", path)
    assert names(calls) == ["both retrieve"]


@pytest.mark.parametrize("registry", [None, Listed])
def test_changes_of_backends_are_saved_except_those_of_retrieve(registry: Any) -> None:
    kind = Kind("http://example.org/a#", "k", [Resource.kind], [Action("http://example.org/a#", "go")])
    mixin = Mixin("http://example.org/a#", "m")
    seen: list[str] = []

    class Renaming(KindBackend, ActionBackend):
        def create(self, entity: Entity, extras: Any) -> None:
            entity.identifier = "/k/chosen"
            entity.attributes["created"] = "1"

        def retrieve(self, entity: Entity, extras: Any) -> None:
            seen.append(entity.attributes.get("fresh", "no"))
            entity.attributes = {**entity.attributes, "fresh": "yes"}

        def action(self, entity: Entity, action: Action, attributes: Any, extras: Any) -> None:
            entity.attributes["went"] = "1"
            entity.mixins.append(mixin)
            entity.actions = list(kind.actions)

    application = occi_service.Application(registry() if registry else None)
    backend = Renaming()
    application.register_backend(kind, backend)
    application.register_backend(kind.actions[0], backend)
    application.register_backend(mixin, MixinBackend())
    assert create(application, 'k; scheme="http://example.org/a#"', "/k/") == "/k/chosen"
    headers = {"Category": 'go; scheme="http://example.org/a#"', "Content-Type": "text/occi"}
    call(application, "POST", "/k/chosen", headers, query="action=go")
    shown = call(application, "GET", "/k/chosen", accept=JSON).json
    assert shown["attributes"] == {"created": "1", "went": "1", "fresh": "yes"}
    assert shown["mixins"] == ["http://example.org/a#m"]
    assert shown["actions"] == ["http://example.org/a#go"]
    if registry is None:
        call(application, "GET", "/k/chosen")
        assert seen == ["no", "no"]


def test_an_update_of_only_the_title_is_saved(served: Secured) -> None:
    path = create(served, COMPUTE, "/compute/")
    call(served, "POST", path, body='X-OCCI-Attribute: occi.core.title="a", occi.core.summary="b"')
    shown = call(served, "GET", path, accept=JSON).json
    assert (shown["title"], shown["summary"]) == ("a", "b")
    state = shown["attributes"]
    call(served, "PUT", path, body={"kind": SCHEME + "compute", "title": "c", "attributes": state})
    shown = call(served, "GET", path, accept=JSON).json
    assert shown["title"] == "c"
    assert "summary" not in shown


def test_no_backend_is_called_if_the_response_cannot_be_rendered(served: Secured, calls: Calls) -> None:
    path = create(served, COMPUTE, "/compute/")
    before = call(served, "GET", path).body
    calls.clear()
    for accept, status in (("text/uri-list", 400), ("image/png", 406)):
        for method, body, query in (
            ("POST", 'X-OCCI-Attribute: occi.compute.cores="9"', ""),
            ("POST", f"Category: {START}", "action=start"),
            ("PUT", f"Category: {COMPUTE}", ""),
        ):
            assert call(served, method, path, body=body, query=query, accept=accept).status == status
    assert calls == []
    assert call(served, "GET", path).body == before


def test_a_backends_http_error_is_the_clients(served: Secured) -> None:
    class Refusing(KindBackend):
        def create(self, entity: Entity, extras: Any) -> None:
            raise occi.exceptions.HTTPError(409, "the quota is used up")

    served.register_backend(Kind("http://example.org/a#", "no", [Resource.kind]), Refusing())
    answer = call(served, "POST", "/no/", {"Category": 'no; scheme="http://example.org/a#"'}, accept=JSON)
    assert answer.status == 409
    assert answer.json["error"]["message"] == "the quota is used up"
    assert call(served, "GET", "/no/", accept="text/uri-list").body == b""


def test_a_backend_of_the_wrong_class_or_a_taken_location_is_refused() -> None:
    application = occi_service.Application()
    with pytest.raises(AttributeError, match="ActionBackend"):
        application.register_backend(infra.START, KindBackend())
    with pytest.raises(AttributeError, match="MixinBackend"):
        application.register_backend(infra.IPNETWORK, KindBackend())
    with pytest.raises(AttributeError, match="end in #"):
        application.register_backend(Kind("http://example.org/a#b", "c"), KindBackend())
    with pytest.raises(AttributeError, match="type identifier"):
        application.register_backend(Kind("plain", "c"), KindBackend())
    application.register_backend(infra.COMPUTE, KindBackend())
    with pytest.raises(AttributeError, match="/compute/"):
        application.register_backend(Kind("http://example.org/a#", "other", location="/compute/"), KindBackend())


def foreign(calls: Calls, registry: Any) -> Secured:
    renderings = {"text/occi": TextOcciRendering(registry), "text/plain": TextPlainRendering(registry)}
    application = Secured(registry, renderings)
    publish(application, calls)
    return application


@pytest.mark.parametrize("registry", [Subclassed, Listed, occi_service.InMemoryRegistry])
def test_pyssfs_own_renderings_serve(registry: Any, calls: Calls) -> None:
    application = foreign(calls, registry())
    disk = create(application, STORAGE, "/storage/")
    headers = {
        "Category": COMPUTE,
        "Content-Type": "text/occi",
        "Accept": "text/occi",
        "X-OCCI-Attribute": 'occi.compute.hostname="a, b"',
        "Link": f'<{disk}>; category="{SCHEME}storagelink"; occi.storagelink.deviceid="sda"',
    }
    path = path_of(call(application, "POST", "/compute/", headers))
    shown = call(application, "GET", path, accept="text/occi")
    assert shown.header("content-type") == "text/occi"
    assert shown.header("category").startswith(
        'compute; scheme="http://schemas.ogf.org/occi/infrastructure#"; class="kind"'
    )
    assert 'occi.compute.hostname="a, b"' in shown.header("x-occi-attribute")
    assert f"<{disk}>" in shown.header("link")
    assert "\nX-OCCI-Attribute: " in call(application, "GET", path, accept="text/plain").text
    listed = call(application, "GET", "/compute/", accept="text/occi")
    assert listed.header("x-occi-location") == f"http://{HOST}{path}"
    assert "compute; " in call(application, "GET", "/-/", accept="text/occi").header("category")
    started = call(application, "POST", path, {"Category": START, "Content-Type": "text/occi"}, query="action=start")
    assert started.status == 200
    tag = call(application, "GET", path, accept="text/occi").header("etag")
    update = {
        "Content-Type": "text/occi",
        "X-OCCI-Attribute": 'occi.compute.cores="4"',
        "If-Match": tag,
        "Category": COMPUTE,
    }
    assert call(application, "POST", path, update).status == 200
    assert call(application, "POST", path, update).status == 412
    headers = {"Category": 'mine; scheme="http://me.example.org#"; location="/mine/"', "Content-Type": "text/occi"}
    assert call(application, "POST", "/-/", headers, accept="text/occi").status == 200
    attach = {"X-OCCI-Location": f"http://{HOST}{path}", "Content-Type": "text/occi"}
    assert call(application, "POST", "/mine/", attach).status == 200
    assert call(application, "GET", "/mine/", accept="text/occi").header("x-occi-location").endswith(path)
    assert "mine; " in call(application, "GET", "/-/", accept="text/occi").header("category")
    assert call(application, "DELETE", "/-/", headers, accept="text/occi").status == 200
    assert "mine; " not in call(application, "GET", "/-/", accept="text/occi").header("category")
    assert call(application, "DELETE", path).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Category": COMPUTE, "X-OCCI-Attribute": 'a="unclosed'},
        {"Category": "compute"},
        {"Category": COMPUTE, "Link": '<nowhere>; category="x"'},
        {"Category": COMPUTE, "Link": "</storage/d>; category"},
    ],
)
def test_exceptions_of_pyssfs_parsers_are_client_errors(headers: dict[str, str], calls: Calls) -> None:
    application = foreign(calls, occi_service.InMemoryRegistry())
    path = create(application, COMPUTE, "/compute/")
    for method, place, query in (("POST", "/compute/", ""), ("PUT", path, ""), ("POST", path, "action=start")):
        answer = call(application, method, place, {**headers, "Content-Type": "text/occi"}, query=query)
        assert answer.status == 400, (method, place, answer)
    assert call(application, "POST", path, {"Content-Type": "text/occi"}, query="action=start").status == 400


def test_no_value_injects_a_field_into_pyssfs_rendering(calls: Calls) -> None:
    registry = occi_service.InMemoryRegistry()
    ours = Secured(registry)
    publish(ours, calls)
    theirs = foreign(calls, registry)
    path = path_of(
        call(
            ours,
            "POST",
            "/compute/",
            body={"kind": SCHEME + "compute", "attributes": {"occi.compute.hostname": "a\r\nX: y"}},
        )
    )
    assert call(theirs, "GET", path, accept="text/occi").status == 406
    taken = {
        "Category": COMPUTE,
        "Link": f'<{path}>; self="{path}"; category="{SCHEME}storagelink"',
        "Content-Type": "text/occi",
    }
    assert call(theirs, "POST", "/compute/", taken).status == 400
    assert call(ours, "GET", path, accept=JSON).json["kind"] == SCHEME + "compute"


def test_two_new_links_cannot_share_a_path(cloud: occi_service.Application, calls: Calls) -> None:
    disk = create(cloud, STORAGE, "/storage/")
    link = f'Link: <{disk}>; self="/storage/link/one"; category="{SCHEME}storagelink"\n'
    assert call(cloud, "POST", "/compute/", body=f"Category: {COMPUTE}\n{link}{link}").status == 400
    own = link.replace("/storage/link/one", "/compute/me")
    assert call(cloud, "PUT", "/compute/me", body=f"Category: {COMPUTE}\n{own}").status == 400
    assert call(cloud, "GET", "/compute/", accept="text/uri-list").body == b""
    assert call(cloud, "GET", "/storage/link/", accept="text/uri-list").body == b""


def test_definitions_compare_equal_to_pyssfs_words() -> None:
    definition = occi_service.Attribute("mutable", type="number", default=3, description="how many", secret=True)
    assert definition == "mutable"
    assert isinstance(definition, str)
    assert (definition.type, definition.default, definition.description, definition.secret) == (
        "number",
        3,
        "how many",
        True,
    )
    assert occi_service.Attribute("required", pattern="[a-z]+").pattern == "[a-z]+"
    for wrong in ({"use": "optional"}, {"type": "text"}, {"pattern": "("}, {"type": "number", "default": "x"}):
        with pytest.raises(ValueError):
            occi_service.Attribute(**wrong)  # type: ignore[arg-type]
    from occi.backend import is_attr_mutable, is_attr_required

    kind = Kind("http://example.org/a#", "k", attributes={"n": definition, "r": occi_service.Attribute("required")})
    assert is_attr_mutable(kind, "n")
    assert is_attr_required(kind, "r")
    assert Link.kind not in kind.related
