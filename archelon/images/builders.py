"""Makes an image of a directory with a container file in it, with the builder that is there.

All three read the same container files. What is built stays in the builder's own store under its name, to be pushed as its
owner does; `save` writes it to a file instead, for a machine without a registry.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

#: In the order in which they are looked for.
BUILDERS: Final = ("buildah", "podman", "docker")
#: A build that fetches a base image from a registry takes its time.
_TIMEOUT: Final = 1800.0


class BuilderError(Exception):
    """An image could not be built or saved. The text ends with what the builder said."""


@dataclasses.dataclass(frozen=True)
class Builder:
    """One builder's way of saying things.

    Args:
        name: of the program.
        program: its path.
    """

    name: str
    program: str

    def build(self, directory: Path, image: str, *, arguments: Mapping[str, str] | None = None) -> None:
        """Make an image of a directory that holds a `Containerfile`. Raises BuilderError.

        Args:
            arguments: values of its ARGs.
        """
        given = [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
        file = f"--file={directory / 'Containerfile'}"
        # buildah and podman write OCI's format if not told; health checks and older readers need Docker's.
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
        """Take an image out of the builder's store. Raises BuilderError."""
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
            raise BuilderError(f"{self.name} {arguments[0]} takes longer than {_TIMEOUT:g} s") from error
        if ended.returncode:
            said = " ".join(ended.stdout.decode(errors="replace").split())[-600:]
            raise BuilderError(f"{self.name} {arguments[0]} ended with {ended.returncode}: {said}")


def find(name: str | None = None, *, path: str | None = None) -> Builder:
    """The builder of a name, or the first that is there. Raises BuilderError.

    Args:
        path: where to look; the process' own PATH without it.
    """
    for each in (name,) if name else BUILDERS:
        program = shutil.which(each, path=path)
        if program is not None:
            return Builder(each, program)
    wanted = name or ", ".join(BUILDERS)
    raise BuilderError(f"there is no builder here ({wanted}); install one of {', '.join(BUILDERS)}")
