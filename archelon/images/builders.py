"""Builds an image of a directory with a container file, using the installed builder.

All three builders read the same container files. The image stays in the builder's own store, from which it can be pushed; `save`
writes it to a file instead, for machines without a registry.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

#: In order of preference.
BUILDERS: Final = ("buildah", "podman", "docker")
#: Seconds; a build may have to pull a base image.
_TIMEOUT: Final = 1800.0


class BuilderError(Exception):
    """An image could not be built or saved. The message ends with the builder's output."""


@dataclasses.dataclass(frozen=True)
class Builder:
    """A builder, by the name and the path of its program."""

    name: str
    program: str

    def build(self, directory: Path, image: str, *, arguments: Mapping[str, str] | None = None) -> None:
        """Build an image of a directory with a `Containerfile`, with these build arguments (`ARG`). Raises BuilderError."""
        given = [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
        file = f"--file={directory / 'Containerfile'}"
        # buildah and podman default to OCI's format; health checks and older readers need Docker's.
        own = ["--format=docker"] if self.name != "docker" else []
        self._run("build", *own, f"--tag={image}", file, *given, str(directory))

    def save(self, image: str, archive: Path) -> None:
        """Write an image to a file that `ctr images import`, `docker load` and `podman load` read. Raises BuilderError."""
        archive.unlink(missing_ok=True)
        if self.name == "buildah":
            self._run("push", image, f"docker-archive:{archive}:{image}")
        else:
            self._run("save", f"--output={archive}", image)

    def remove(self, image: str) -> None:
        """Remove an image from the builder's store. Raises BuilderError."""
        self._run("rmi", image)

    def _run(self, *arguments: str) -> None:
        command: Sequence[str] = [self.program, *arguments]
        try:
            ended = subprocess.run(  # noqa: S603 - our own list
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BuilderError(f"{self.name} {arguments[0]} did not finish within {_TIMEOUT:g} s") from error
        if ended.returncode:
            message = " ".join(ended.stdout.decode(errors="replace").split())[-600:]
            raise BuilderError(f"{self.name} {arguments[0]} ended with {ended.returncode}: {message}")


def find(name: str | None = None, *, path: str | None = None) -> Builder:
    """Return the builder of this name, or the first in `path` (default PATH). Raises BuilderError."""
    for each in (name,) if name else BUILDERS:
        program = shutil.which(each, path=path)
        if program is not None:
            return Builder(each, program)
    raise BuilderError(f"no builder found ({name or ', '.join(BUILDERS)}); install one of {', '.join(BUILDERS)}")
