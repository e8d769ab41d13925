"""An all-in-one that authenticates its callers with a real Keystone, and its users there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bundles
from archelon.all_in_one import PROCESSES, AllInOne
from archelon.service import offer
from archelon.state_directory import StateDirectory
from archelon_api import service_manager as wire
from occi_service import client
from tests.keystone_people import People, Person
from tests.openstack import Cloud, OpenStack
from tests.waiting import until

from .harness import first_port

TIMEOUT = 120.0


class KeystoneAllInOne(AllInOne):
    """An all-in-one without a realm.

    Args:
        service: design's user in Keystone.
        regions: by name, as in the cloud controller's settings; they override the all-in-one's own settings of a region.
    """

    def __init__(
        self, state: StateDirectory, keystone: str, service: Person, regions: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__(state, lambda _line: None)
        self._keystone = keystone
        self._service = service
        self._regions = regions

    def _service_manager(self) -> Mapping[str, Any]:
        settings = {**super()._service_manager(), "realm_file": "", "keystone_url": self._keystone}
        return {**settings, "catalogue_interval": 1.0}

    def _cloud_controller(self) -> Mapping[str, Any]:
        settings = dict(super()._cloud_controller())
        del settings["realm"]
        regions = {name: dict(each) for name, each in settings["regions"].items()}
        for name, each in self._regions.items():
            own = regions.get(name, {})
            regions[name] = {**own, **each, "settings": {**own.get("settings", {}), **each["settings"]}}
        return {
            **settings,
            "regions": regions,
            "keystone_url": self._keystone,
            "keystone_user": self._service.name,
            "keystone_password": "secret",
            "keystone_project": self._service.project_name,
            "catalogue_interval": 1.0,
        }


@dataclasses.dataclass
class System:
    """The all-in-one and its Keystone users."""

    all: KeystoneAllInOne
    openstack: OpenStack
    people: People
    service: Person
    provider: Person
    operator: Person

    def open(self, token: str, **options: Any) -> client.Client:
        return client.Client(self.all.state.url(), token=token, token_field="X-Auth-Token", **options)

    def design(self, token: str) -> client.Client:
        url = f"{self.all.state.url('cloud_controller')}/design"
        return client.Client(url, token=token, token_field="X-Auth-Token")

    def publish(self, directory: Path) -> str:
        """Publish a bundle; returns the path of the published entry."""
        bundle = bundles.Bundle.load(directory)
        with self.open(self.provider.token()) as manager:
            return offer(manager, bundle.pack())

    def attributes(self, tenant: Person, path: str) -> dict[str, Any] | None:
        """Return an instance's attributes, or None if it is gone."""
        with self.open(tenant.token()) as manager:
            try:
                return dict(manager.get(path).attributes)
            except client.NotFoundError:
                return None

    def await_state(self, tenant: Person, path: str, state: str | None) -> dict[str, Any]:
        token = tenant.token()
        with self.open(token) as manager:
            seen: list[Any] = []

            def reached() -> bool:
                try:
                    seen.append(dict(manager.get(path).attributes))
                except client.NotFoundError:
                    seen.append({})
                return seen[-1].get(wire.STATE) == state

            try:
                until(reached, f"{path} is {state}", seconds=TIMEOUT, pause=0.2)
            except AssertionError as error:
                raise AssertionError(
                    f"{error}; it is {seen[-1].get(wire.STATE)}: {seen[-1].get(wire.STATE_MESSAGE)}"
                ) from None
            return dict(seen[-1])

    def trusts(self) -> list[dict[str, Any]]:
        """Return Keystone's trusts whose trustee is design's user."""
        mine = self.service.cloud.keystone("GET", f"/OS-TRUST/trusts?trustee_user_id={self.service.id}")
        return list(mine["trusts"])

    def endpoints(self, service_type: str) -> list[dict[str, Any]]:
        """Return the endpoints of a service type in Keystone's catalogue."""
        admin = self.openstack.admin
        services = [
            each["id"] for each in admin.keystone("GET", "/services")["services"] if each["type"] == service_type
        ]
        every = admin.keystone("GET", "/endpoints")["endpoints"]
        return [each for each in every if each["service_id"] in services]

    def short_lived_token(self, tenant: Person, short_lived: str) -> str:
        """Return a token that expires after seconds."""
        return Cloud({**tenant.cloud.auth, "auth_url": short_lived}, self.openstack.region).token()

    def restart(self) -> None:
        """Kill all of the all-in-one's processes, so that the supervisor restarts them."""
        for name in PROCESSES:
            self.all.supervisor.kill(name)


@contextlib.contextmanager
def keystone_system(
    openstack: OpenStack, directory: Path, regions: Mapping[str, Mapping[str, Any]]
) -> Iterator[System]:
    """A running all-in-one with these regions; its Keystone users are deleted with it."""
    people = People(openstack)
    state = StateDirectory(directory)
    state.make(host="127.0.0.1", first_port=first_port())
    service, provider = people.person("service", "admin"), people.person("provider")
    operator = people.person("member")
    people.grant_system(operator.id, "admin")
    made = System(
        KeystoneAllInOne(state, openstack.keystone_url, service, regions),
        openstack,
        people,
        service,
        provider,
        operator,
    )
    try:
        made.all.up(timeout=120.0)
        yield made
    finally:
        made.all.down()
        people.close()
