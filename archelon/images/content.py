"""Contents of the images.

`orchestrator` contains the SDK and its dependencies, and runs any bundle in Python or without code. `services` contains all of
Archelon, for service managers, cloud controllers and their workers. Library versions are those installed on this machine.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

#: An unprivileged user, numeric because Kubernetes' `runAsNonRoot` requires a number.
USER: Final = "65532:65532"
#: Directory of the bundle in images of `archelon build`.
BUNDLE: Final = "/srv/bundle"
_REQUIREMENTS: Final = Path(__file__).with_name("orchestrator.txt")
_EVERYWHERE: Final = {
    "PYTHONUNBUFFERED": "1",
    # The root is read-only; modules are compiled when the image is built.
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclasses.dataclass(frozen=True)
class Content:
    """Contents of one image.

    Attributes:
        name: also that of its directory below deploy/containers.
        packages: packages of Archelon.
        libraries: third-party distributions; without any, the dependencies of Archelon with `extras`.
    """

    name: str
    packages: tuple[str, ...]
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    libraries: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    def distributions(self) -> list[str]:
        """Return the normalized names of all required libraries. Raises importlib.metadata.PackageNotFoundError."""
        if self.libraries:
            return closure(self.libraries)
        return [each for each in closure(["archelon"], extras=self.extras) if each != "archelon"]

    def directives(self) -> list[str]:
        """Return the container file's instructions on how to run the image."""
        settings = {**_EVERYWHERE, **self.environment}
        return [
            "ENV " + " ".join(f"{name}={value}" for name, value in settings.items()),
            "WORKDIR /srv",
            f"USER {USER}",
            "EXPOSE 8080",
            f"ENTRYPOINT {json.dumps(self.entrypoint)}",
        ]


def _listed(path: Path) -> tuple[str, ...]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


IMAGES: Final[Mapping[str, Content]] = {
    "orchestrator": Content(
        name="orchestrator",
        packages=("archelon_api", "archelon_core", "bundles", "occi_service", "sdk"),
        entrypoint=("python3", "-m", "sdk.runtime.container"),
        environment={"HOST": "0.0.0.0", "PORT": "8080"},  # nosec  # noqa: S104 - in a pod; a network policy restricts callers
        libraries=_listed(_REQUIREMENTS),
    ),
    "services": Content(
        name="services",
        packages=(
            *(
                "archelon",
                "archelon_api",
                "archelon_core",
                "bundles",
                "cloud_controller",
                "occi_service",
                "orchestrators",
            ),
            *("portal", "sdk", "service_manager"),
        ),
        entrypoint=("python3", "-m", "archelon"),
        environment={},
        extras=("heat", "kubernetes"),
    ),
}


def closure(names: Iterable[str], *, extras: Iterable[str] = ()) -> list[str]:
    """Return the sorted normalized names of these installed distributions and their transitive dependencies.

    Raises importlib.metadata.PackageNotFoundError if one is not installed.
    """
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = [(name, frozenset(extras)) for name in names]
    while pending:
        name, wanted = pending.pop()
        key = (re.sub(r"[-_.]+", "-", name).lower(), wanted)
        if key in seen:
            continue
        seen.add(key)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                pending.append((requirement.name, frozenset(requirement.extras)))
    return sorted({name for name, _ in seen})
