"""Hurtle's clients on their mount: the commands of its users and the requests of its resolver, against a real process."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import urllib3
from occi.core_model import Resource

from archelon_api import design
from cloud_controller.design.mirror import for_keystone
from cloud_controller.design.ports import CatalogueEntry
from service_manager import app
from tests.conftest import missing
from tests.fakes.cloud import FakeCloudProcess
from tests.waiting import until

from ..harness import ISSUER, Keys, ServiceManager, make_bundle, running

CATEGORY = 'demo; scheme="http://schemas.example.org/occi/sm#"; class="kind"'
ENDPOINT = "mcn.endpoint.p1"


class Hurtle:
    """The requests of Hurtle's clients: text/occi in header fields, `X-Auth-Token`, `X-Tenant-Name`."""

    def __init__(self, manager: ServiceManager, user: str = "alice", tenant: str = "acme") -> None:
        self.url = manager.url + "/hurtle"
        self.headers = {"X-Auth-Token": manager.realm.tokens[user], "X-Tenant-Name": tenant}
        self._http = urllib3.PoolManager(retries=False, timeout=60.0)

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        where = path if path.startswith("http") else self.url + path
        return self._http.request(method, where, headers={**self.headers, **(headers or {})})

    # the resolver's logic -----------------------------------------------------------------------------------------------

    def create(self, **attributes: str) -> str:
        """Order an instance and return its Location."""
        fields = {"Category": CATEGORY, "Content-Type": "text/occi"}
        if attributes:
            fields["X-OCCI-Attribute"] = ", ".join([f'{name}="{value}"' for name, value in attributes.items()])
        answer = self.ask("POST", "/demo/", fields)
        assert answer.status == 201, answer.data
        return answer.headers["Location"]

    def attributes(self, location: str) -> dict[str, str]:
        """Read the attributes like the resolver: split the header field at commas, and each part at its equals sign."""
        answer = self.ask("GET", location, {"Accept": "text/occi"})
        assert answer.status == 200, answer.data
        found = {}
        for part in answer.headers["X-OCCI-Attribute"].split(","):
            name, _, value = part.strip().partition("=")
            found[name] = value.strip('"')
        return found

    def await_stack(self, location: str, *words: str) -> dict[str, str]:
        """Poll until the stack state is one that the resolver considers ready."""
        wanted = words or ("CREATE_COMPLETE", "UPDATE_COMPLETE")

        def ready() -> dict[str, str] | None:
            found = self.attributes(location)
            assert not found["occi.mcn.stack.state"].endswith("_FAILED"), found
            return found if found["occi.mcn.stack.state"] in wanted else None

        found: dict[str, str] = until(ready, f"{location} is ready")
        return found

    def update(self, location: str, **attributes: str) -> None:
        """Send inputs: a partial update without a category."""
        field = ", ".join([f'{name.replace("_", ".")}="{value}"' for name, value in attributes.items()])
        answer = self.ask("POST", location, {"Content-Type": "text/occi", "X-OCCI-Attribute": field})
        assert answer.status == 200, answer.data

    def dispose(self, location: str) -> None:
        """Delete the instance, and poll until it is gone."""
        assert self.ask("DELETE", location).status == 200
        until(lambda: self.ask("GET", location, {"Accept": "text/occi"}).status == 404, "it is gone")


@pytest.fixture
def hurtle(manager: ServiceManager) -> Hurtle:
    """Hurtle's client for alice."""
    return Hurtle(manager)


def test_a_resolver_creates_uses_and_disposes_of_an_instance(hurtle: Hurtle, cloud: FakeCloudProcess) -> None:
    location = hurtle.create()
    assert location.startswith(hurtle.url + "/demo/")
    found = hurtle.await_stack(location)
    assert found["occi.mcn.stack.id"]
    until(lambda: hurtle.attributes(location)["mcn.service.state"] == "provision", "it rests in provision")
    found = hurtle.attributes(location)
    assert found[ENDPOINT].startswith("http://p1.example.org/")
    hurtle.update(location, demo_size="7")
    # The previous phase's state is not taken for the result of this one.
    assert hurtle.await_stack(location)["occi.mcn.stack.state"] == "UPDATE_COMPLETE"
    until(lambda: hurtle.attributes(location)["mcn.service.state"] == "provision", "it rests again")
    instance = location.rpartition("/")[2]
    assert cloud.entries().times("phase done", instance, phase="update") == 1
    hurtle.dispose(location)
    assert not [each for each in cloud.left_over() if instance in each]


def _endpoint_of(entries: list[CatalogueEntry], service_type: str, region: str, interface: str) -> str | None:
    """Find an endpoint like Hurtle's library: of all services with the type, the region's endpoint that is listed last."""
    found = None
    for each in entries:
        if each.type == service_type and each.region == region and each.interface == interface:
            found = each.endpoint
    return found


def test_a_resolver_follows_keystones_catalogue(cloud: FakeCloudProcess, keys: Keys, tmp_path: Path) -> None:
    manager = ServiceManager(
        tmp_path,
        design_url=cloud.url + "/design",
        database_url=f"sqlite:///{tmp_path}/state.db",
        keys=keys,
        settings={
            "ARCHELON_HURTLE_CATALOGUE": "true",
            "ARCHELON_INTERNAL_URL": "http://localhost:1",
            "ARCHELON_CATALOGUE_INTERVAL": "0.2",
        },
    )
    with running(manager):
        type_id = "http://schemas.example.org/occi/sm#followed"
        manager.publish(make_bundle(tmp_path / "bundle", service_type=type_id))
        dependencies = app.Dependencies.of(manager.settings())
        try:
            listed = until(
                lambda: len(found := dependencies.cloud.services(type_id)) == 3 and found, "all entries are there"
            )
        finally:
            dependencies.cloud.close()
            dependencies.database.close()
        shown = [Resource(each.location, design.SERVICE, []) for each in listed]
        for entity, each in zip(shown, listed, strict=True):
            # The fake catalogue does not record the author.
            entity.attributes = {**each.attributes, design.ISSUER: ISSUER}
        entries = for_keystone(shown)
        for interface in ("public", "internal"):
            endpoint = _endpoint_of(entries, type_id, "local", interface)
            assert endpoint == f"{manager.url}/hurtle/followed/"
        hurtle = Hurtle(manager)
        fields = {"Category": CATEGORY.replace("demo", "followed"), "Content-Type": "text/occi"}
        answer = hurtle.ask("POST", endpoint, fields)
        assert answer.status == 201, answer.data
        location = answer.headers["Location"]
        assert location.startswith(endpoint)
        assert hurtle.ask("GET", location, {"Accept": "application/occi+json"}).json()["kind"]["term"] == "followed"


def test_an_instance_that_rests_in_provision_here_is_active_elsewhere(hurtle: Hurtle, manager: ServiceManager) -> None:
    location = hurtle.create()
    path = location.removeprefix(hurtle.url)
    manager.await_state(path, "active")
    assert hurtle.attributes(location)["mcn.service.state"] == "provision"
    for media_type in ("text/plain", "application/occi+json", "application/json"):
        text = hurtle.ask("GET", location, {"Accept": media_type}).data.decode()
        assert "provision" in text
        assert '"active"' not in text
    listed = hurtle.ask("GET", "/demo/", {"Accept": "application/occi+json"}).data.decode()
    assert '"active"' not in listed
    # Translated in the response, not in the database.
    assert manager.state(path) == "active"
    hurtle.dispose(location)


def test_a_service_without_stacks_is_ready_when_it_is_active(hurtle: Hurtle, cloud: FakeCloudProcess) -> None:
    cloud.configure(stacks=[])
    try:
        location = hurtle.create()
        found = hurtle.await_stack(location, "CREATE_COMPLETE")
        assert found["mcn.service.state"] == "provision"
        assert "occi.mcn.stack.id" not in found
    finally:
        cloud.configure(stacks=["main"])


def test_values_with_commas_and_equals_signs_survive_the_split(hurtle: Hurtle) -> None:
    value = "a=b, c=d; 100%"
    location = hurtle.create(**{"demo.password": "x"})
    body = json.dumps({"attributes": {"demo.password": value}}).encode()
    headers = {**hurtle.headers, "Content-Type": "application/occi+json"}
    answer = urllib3.request("POST", location, body=body, headers=headers, retries=False)
    assert answer.status == 200, answer.data
    assert urllib.parse.unquote(hurtle.attributes(location)["demo.password"]) == value


def test_json_is_in_pyssfs_form(hurtle: Hurtle, manager: ServiceManager) -> None:
    location = hurtle.create()
    entity = hurtle.ask("GET", location, {"Accept": "application/occi+json"}).json()
    assert entity["kind"]["term"] == "demo"
    assert entity["kind"]["scheme"] == "http://schemas.example.org/occi/sm#"
    categories = hurtle.ask("GET", "/-/", {"Accept": "application/occi+json"}).json()
    assert isinstance(categories, list)
    assert "demo" in [each["term"] for each in categories]
    # The mount beside it is OCCI 1.2's.
    path = location.removeprefix(hurtle.url)
    assert manager.http("alice", "GET", path, headers={"Accept": "application/occi+json"}).json()["kind"] == (
        "http://schemas.example.org/occi/sm#demo"
    )


def test_the_query_interface_in_text(hurtle: Hurtle) -> None:
    # Of this kind alone: those of all services that other tests have published may exceed the limit of a header.
    answer = hurtle.ask("GET", "/-/", {"Accept": "text/occi", "Category": CATEGORY})
    assert answer.status == 200, answer.data
    assert CATEGORY.split(";")[1].strip() in answer.headers["Category"]
    assert "/demo/" in hurtle.ask("GET", "/-/").data.decode()


def test_without_a_token_it_is_401(hurtle: Hurtle) -> None:
    for headers in ({}, {"X-Tenant-Name": "acme"}, {"X-Auth-Token": "nonsense", "X-Tenant-Name": "acme"}):
        for path in ("/demo/", "/-/"):
            answer = urllib3.request("GET", hurtle.url + path, headers=headers, retries=False)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_tenants_are_isolated_here_too(hurtle: Hurtle, manager: ServiceManager) -> None:
    location = hurtle.create()
    other = Hurtle(manager, "bob", "umbrella")
    for method in ("GET", "POST", "DELETE"):
        assert other.ask(method, location, {"Content-Type": "text/occi"}).status == 404
    assert location not in other.ask("GET", "/demo/").data.decode()
    assert Hurtle(manager, "bob", "acme").ask("GET", location).status == 403


def curl(*arguments: str) -> tuple[int, dict[str, str], str]:
    """Run curl and return status, header fields and body."""
    if shutil.which("curl") is None:
        missing("curl", package="curl")
    command = ["curl", "--silent", "--include", "--max-time", "60", *arguments]
    text = subprocess.run(command, capture_output=True, check=True, timeout=90).stdout.decode()
    head, _, body = text.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name.lower()] = value
    return int(first.split(" ")[1]), fields, body


def test_the_commands_of_hurtles_users(hurtle: Hurtle, manager: ServiceManager) -> None:
    who: list[str] = []
    for name, value in hurtle.headers.items():
        who += ["-H", f"{name.lower()}: {value}"]
    # The category ends in a semicolon, as in Hurtle's own instructions.
    typed = ["-X", "POST", f"{hurtle.url}/demo/", "-H", f"Category: {CATEGORY};", "-H", "content-type: text/occi"]
    status, fields, _ = curl(*typed, *who)
    assert status == 201
    location = fields["location"]
    hurtle.await_stack(location)
    status, _, body = curl("-X", "GET", location, *who)
    assert (status, "X-OCCI-Attribute: mcn.service.state=" in body) == (200, True)
    status, _, _ = curl("-X", "GET", f"{hurtle.url}/-/", *who)
    assert status == 200
    status, _, _ = curl("-X", "DELETE", location, *who)
    assert status == 200
    until(lambda: curl("-X", "GET", location, *who)[0] == 404, "it is gone")


def test_update_children_rolls_every_service(manager: ServiceManager) -> None:
    answer: Any = manager.http("operator", "POST", "/hurtle/update/children")
    assert answer.status == 200
    assert "http://schemas.example.org/occi/sm#demo" in answer.json()["services"]
    assert manager.http("alice", "POST", "/hurtle/update/children").status == 403

    def rolled() -> bool:
        services = manager.http("operator", "GET", "/operator/services").json()["services"]
        return all(each["withdrawn"] or each["roll"] == "done" for each in services)

    until(rolled, "every roll ends")
