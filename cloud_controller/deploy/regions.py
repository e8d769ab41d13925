"""Regions: named places to deploy to, each on one platform.

A region is configured, never asked for: an order names it, and what its platform is called or how it is reached stays here.
"""

from __future__ import annotations

from collections.abc import Mapping

from archelon_api import deploy, names
from archelon_core.errors import BadRequestError, shown

from ..platforms.interface import Applications, Platform, Stacks


class Regions:
    """The platforms of the configured regions.

    Args:
        platforms: by region; the first is where applications run.

    Raises:
        ValueError: there is no region, or the first cannot run applications.
    """

    def __init__(self, platforms: Mapping[str, Platform]) -> None:
        if not platforms:
            raise ValueError("no region is configured; name one with its platform")
        self._platforms = dict(platforms)
        self.home = next(iter(self._platforms))
        runs = self._platforms[self.home].applications
        if runs is None:
            raise ValueError(
                f"the platform of the first region, {self.home}, cannot run orchestrators; name one first that can"
            )
        self.applications: Applications = runs

    @property
    def names(self) -> tuple[str, ...]:
        """Of all regions, the one where applications run first."""
        return tuple(self._platforms)

    def platform(self, region: str) -> Platform:
        """The platform of a region. Raises KeyError."""
        return self._platforms[region]

    def stacks(self, region: str, template_format: str) -> Stacks:
        """What makes stacks of a format in a region.

        Raises:
            BadRequestError: there is no such region, or its platform does not know the format.
        """
        platform = self._platforms.get(region)
        if platform is None:
            raise BadRequestError(
                f"there is no region {shown(region)}; there are {', '.join(self.names)}", names.REGION
            )
        found = platform.formats.get(template_format)
        if found is None:
            raise BadRequestError(
                f"the region {region} knows no templates of the format {shown(template_format)}; "
                f"it knows {', '.join(platform.formats)}",
                deploy.STACK_FORMAT,
            )
        return found
