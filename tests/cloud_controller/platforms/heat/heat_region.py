"""A region of a real Heat for tests, with tokens of one user and fast templates."""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.heat.factory import HeatPlatform, open_heat
from cloud_controller.platforms.interface import KnownStack, NoStacks, PlatformContext, StackIndex
from tests.conftest import missing
from tests.openstack import Cloud, OpenStack
from tests.relay import Relay, relay_to


class Tokens:
    """Tokens of one user; delegations have their own tests."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._token = ""

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        if fresh or not self._token:
            self._token = self._cloud.token()
        return self._token


@dataclasses.dataclass
class FakeStackIndex:
    """Orders set by a test."""

    stacks: list[KnownStack] = dataclasses.field(default_factory=list)
    instances: dict[str, Labels] = dataclasses.field(default_factory=dict)

    def moving(self) -> Sequence[KnownStack]:
        return [each for each in self.stacks if each.record.get("moving")]

    def all(self) -> Sequence[KnownStack]:
        return self.stacks

    def labels(self, instance: str) -> Labels | None:
        return self.instances.get(instance)


class Rerouted(requests.Session):
    """Sends requests for the relay's target to the relay."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        parts = urllib.parse.urlsplit(url)
        if (parts.hostname, parts.port) == self._relay.target:
            url = parts._replace(netloc=f"127.0.0.1:{self._relay.port}").geturl()
        return super().request(method, url, *arguments, **options)


@contextlib.contextmanager
def relay_before(cloud: Cloud, service: str) -> Iterator[Relay]:
    """Run a relay in front of a cloud service, by its type."""
    parts = urllib.parse.urlsplit(str(cloud.session.get_endpoint(service_type=service, region_name=cloud.region)))
    if parts.scheme != "http" or parts.hostname is None or parts.port is None:
        missing(
            "a cloud without TLS, as the relay needs",
            command="OS_CLOUD= make test-all",
        )
    with relay_to(parts.hostname or "", parts.port or 0) as made:
        yield made


def open_region(openstack: OpenStack, directory: Path, index: StackIndex | None = None) -> HeatPlatform:
    """Open the platform on the tests' cloud."""
    context = PlatformContext("heat", directory, Tokens(openstack.tenant), index or NoStacks())
    return open_heat(context, auth_url=openstack.auth_url, region_name=openstack.region)


def template_of(resources: dict[str, dict[str, object]], *, outputs: str = "", parameters: str = "") -> str:
    """Return a template of `OS::Heat::TestResource`s by name; they are instant and can fail."""
    lines = ["heat_template_version: 2018-08-31"]
    if parameters:
        lines.append(f"parameters: {{{parameters}}}")
    lines.append("resources:")
    for name, properties in resources.items():
        inside = ", ".join(f"{key}: {value}" for key, value in properties.items())
        lines.append(f"  {name}: {{type: 'OS::Heat::TestResource', properties: {{{inside}}}}}")
    if outputs:
        lines.append(f"outputs: {{{outputs}}}")
    return "\n".join(lines) + "\n"
