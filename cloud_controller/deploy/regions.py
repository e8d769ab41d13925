"""Regions: named places to deploy to, each on one platform.

Regions are configured, not discovered: an order names its region; the platform's name and settings stay here.
"""

from __future__ import annotations

from collections.abc import Mapping

from archelon_api import deploy, names
from archelon_core.errors import BadRequestError, shown

from ..platforms.interface import Applications, Platform, Stacks


class Regions:
    """The platforms of the configured regions; applications run in the first.

    Raises ValueError if there is no region, or the first cannot run applications.
    """

    def __init__(self, platforms: Mapping[str, Platform]) -> None:
        if not platforms:
            raise ValueError("no region is configured; name one with its platform")
        self._platforms = dict(platforms)
        self.home = next(iter(self._platforms))
        runs = self._platforms[self.home].applications
        if runs is None:
            raise ValueError(
                f"the platform of the first region, {self.home}, cannot run orchestrators; put another first"
            )
        self.applications: Applications = runs

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all regions; applications run in the first."""
        return tuple(self._platforms)

    def platform(self, region: str) -> Platform:
        """Return the platform of a region. Raises KeyError."""
        return self._platforms[region]

    def stacks(self, region: str, template_format: str) -> Stacks:
        """Return the stacks of a region's platform, by template format. Raises BadRequestError if region or format is unknown."""
        platform = self._platforms.get(region)
        if platform is None:
            raise BadRequestError(f"no region {shown(region)}; expected one of {', '.join(self.names)}", names.REGION)
        found = platform.formats.get(template_format)
        if found is None:
            raise BadRequestError(
                f"the region {region} does not support templates of the format {shown(template_format)}; "
                f"expected one of {', '.join(platform.formats)}",
                deploy.STACK_FORMAT,
            )
        return found
