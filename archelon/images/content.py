"""What the images hold.

`orchestrator` runs any bundle that is written in Python, or has none of its own: the SDK and what it stands on. `services` is all
of Archelon, for service managers, cloud controllers and their workers. Which versions are in them is said by what is installed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

#: Nobody's, and a number: Kubernetes takes only that for certainly not root.
USER: Final = "65532:65532"
#: Where `archelon build` puts a bundle.
BUNDLE: Final = "/srv/bundle"
_REQUIREMENTS: Final = Path(__file__).with_name("orchestrator.txt")
_EVERYWHERE: Final = {
    "PYTHONUNBUFFERED": "1",
    # The root is read-only; what there is to compile was compiled when the image was made.
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclasses.dataclass(frozen=True)
class Content:
    """What one image holds.

    Attributes:
        name: and that of its directory below deploy/containers.
        rooms: our own packages.
        libraries: what is asked for of others, by name; `extras`: of Archelon itself, in place of libraries.
    """

    name: str
    rooms: tuple[str, ...]
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    libraries: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    def distributions(self) -> list[str]:
        """Every library that has to be in it, by normal name. Raises importlib.metadata.PackageNotFoundError."""
        if self.libraries:
            return closure(self.libraries)
        return [each for each in closure(["archelon"], extras=self.extras) if each != "archelon"]

    def directives(self) -> list[str]:
        """The lines of a container file that say how it runs."""
        settings = {**_EVERYWHERE, **self.environment}
        words = ", ".join(f'"{each}"' for each in self.entrypoint)
        return [
            "ENV " + " ".join(f"{name}={value}" for name, value in settings.items()),
            "WORKDIR /srv",
            f"USER {USER}",
            "EXPOSE 8080",
            f"ENTRYPOINT [{words}]",
        ]


def _listed(path: Path) -> tuple[str, ...]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


IMAGES: Final[Mapping[str, Content]] = {
    "orchestrator": Content(
        name="orchestrator",
        rooms=("archelon_api", "archelon_core", "bundles", "occi_service", "sdk"),
        entrypoint=("python3", "-m", "sdk.runtime.container"),
        environment={"HOST": "0.0.0.0", "PORT": "8080"},  # nosec  # noqa: S104 - a pod's own address; a policy says who may call
        libraries=_listed(_REQUIREMENTS),
    ),
    "services": Content(
        name="services",
        rooms=(
            "archelon",
            "archelon_api",
            "archelon_core",
            "bundles",
            "cloud_controller",
            "occi_service",
            "orchestrators",
            "portal",
            "sdk",
            "service_manager",
        ),
        entrypoint=("python3", "-m", "archelon"),
        environment={},
        extras=("heat", "kubernetes"),
    ),
}


def closure(names: Iterable[str], *, extras: Iterable[str] = ()) -> list[str]:
    """These distributions and all that they need, as installed here, by normal name and in order.

    Raises:
        importlib.metadata.PackageNotFoundError: one is not installed.
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
