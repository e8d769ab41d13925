"""Imports every module of Archelon as if only the packages of `pip install .` were there, without any extra.

Prints one line per platform: the error of a region that asks for it, or nothing.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.metadata
import pkgutil
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGES = (
    "archelon_core bundles occi_service archelon_api service_manager cloud_controller sdk orchestrators portal archelon"
)
#: The platforms whose libraries an extra installs.
EXTRAS = ("heat", "kubernetes")


def required(name: str) -> set[str]:
    """The distributions that installing one installs, with those of the extras that others ask for, but none of its own."""
    found: set[str] = set()
    todo: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    while todo:
        each, extras = todo.pop()
        if f"{each}{sorted(extras)}" in found:
            continue
        found |= {each, f"{each}{sorted(extras)}"}
        try:
            lines = importlib.metadata.requires(each) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


class Absent(importlib.abc.MetaPathFinder):
    """Finds no module of another distribution than these."""

    def __init__(self, there: set[str]) -> None:
        self.absent = {
            module
            for module, owners in importlib.metadata.packages_distributions().items()
            if not {canonicalize_name(owner) for owner in owners} & there
        }

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.partition(".")[0] in self.absent:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def main() -> None:
    finder = Absent(required("archelon"))
    assert {"kubernetes", "heatclient", "asyncssh", "pytest"} <= finder.absent
    sys.meta_path.insert(0, finder)
    own = tuple(f"cloud_controller.platforms.{extra}." for extra in EXTRAS)
    for package in PACKAGES.split():
        module = importlib.import_module(package)
        for each in pkgutil.walk_packages(module.__path__, f"{package}."):
            # A program is not imported, and a platform is only if a region asks for it.
            if not each.name.endswith(".__main__") and not each.name.startswith(own):
                importlib.import_module(each.name)
    from cloud_controller.app.dependencies import open_platforms
    from cloud_controller.platforms import entry_points
    from cloud_controller.platforms.interface import DeployError

    entry_points.loaded(entry_points.offered(entry_points.PLATFORMS)["local"])
    for extra in EXTRAS:
        try:
            open_platforms(Path("unused"), {"west": (extra, {})})
        except DeployError as error:
            print(error)


if __name__ == "__main__":
    main()
