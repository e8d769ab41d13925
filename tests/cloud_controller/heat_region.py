"""A region of a real Heat for tests, with tokens of one user, and templates that are quick there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cloud_controller.labels import Labels
from cloud_controller.platform import KnownStack, NoStacks, PlatformContext, StackBook
from cloud_controller.platforms.heat.opening import HeatPlatform, open_heat
from tests.openstack import Cloud, OpenStack

__all__ = ["Book", "Tokens", "open_region", "template_of"]


class Tokens:
    """Tokens of one user; delegations have tests of their own."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._token = ""

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        if fresh or not self._token:
            self._token = self._cloud.token()
        return self._token


@dataclasses.dataclass
class Book:
    """What was ordered, as a test says."""

    stacks: list[KnownStack] = dataclasses.field(default_factory=list)
    instances: dict[str, Labels] = dataclasses.field(default_factory=dict)

    def moving(self) -> Sequence[KnownStack]:
        return [each for each in self.stacks if each.record.get("moving")]

    def all(self) -> Sequence[KnownStack]:
        return self.stacks

    def labels(self, instance: str) -> Labels | None:
        return self.instances.get(instance)


def open_region(openstack: OpenStack, directory: Path, book: StackBook | None = None) -> HeatPlatform:
    """The platform over the tests' cloud."""
    context = PlatformContext("heat", directory, Tokens(openstack.tenant), book or NoStacks())
    return open_heat(context, auth_url=openstack.auth_url, region_name=openstack.region)


def template_of(resources: dict[str, dict[str, object]], *, outputs: str = "", parameters: str = "") -> str:
    """A template of `OS::Heat::TestResource`s, by name with their properties; they take no time and can fail."""
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
