"""`archelon build`: an image of a bundle, for those that travel in no ConfigMap; and the base images themselves.

Out of this machine's own Python, which needs no registry, or out of an image of a registry (`--base`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import click

from .errors import CommandError, Status
from .output import Answers, output_option

_SCRATCH: Final = "scratch"
_CONTAINER_FILE: Final = "Containerfile"


@click.command()
@click.argument("bundle", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--image", required=True, help="Name of the image to make, such as registry.example.org/guestbook:1.")
@click.option("--base", help="Image to build on; without it, or `scratch`: this machine's own Python.")
@click.option("--of", "content", help="Without a bundle: which of our own images, orchestrator or services.")
@click.option("--builder", help="buildah, podman or docker; the first of them that is here without it.")
@click.option("--archive", type=click.Path(dir_okay=False, path_type=Path), help="Write the image to this file too.")
@output_option
def build(
    bundle: Path | None,
    image: str,
    base: str | None,
    content: str | None,
    builder: str | None,
    archive: Path | None,
    answers: Answers,
) -> None:
    """Make an image of BUNDLE, which an orchestrator is run from.

    A bundle with a Containerfile of its own, such as one in another language, is built from that; `--base` is then its
    argument BASE. Any other is put into the base image of orchestrators.
    """
    from .images import builders
    from .images.root import RootError

    # What goes into an image is read there by a user of its own.
    os.umask(0o022)
    try:
        chosen = builders.find(builder)
        with tempfile.TemporaryDirectory(prefix="archelon-build-") as name:
            context = Path(name)
            arguments: dict[str, str] = {}
            if bundle is None:
                _ours(context, content, base)
            elif content is not None:
                raise CommandError("give a bundle, or --of, not both", status=Status.USAGE)
            elif (bundle / _CONTAINER_FILE).exists():
                context = bundle
                arguments = {"BASE": base} if base else {}
            else:
                _of_bundle(context, bundle, base)
            chosen.build(context, image, arguments=arguments)
        if archive is not None:
            chosen.save(image, archive)
    except (builders.BuilderError, RootError) as error:
        raise CommandError(str(error)) from error
    told = f"{image} is built, with {chosen.name}" + (f"; {archive} holds it" if archive else "")
    answers.line(told, image=image, builder=chosen.name, archive=str(archive) if archive else None)


def _ours(context: Path, content: str | None, base: str | None) -> None:
    """A context of one of our own images, out of this machine's Python."""
    from .images.content import IMAGES
    from .images.root import make_root

    if content is None or content not in IMAGES:
        raise CommandError(f"give a bundle, or --of with one of {', '.join(IMAGES)}", status=Status.USAGE)
    if base not in (None, _SCRATCH):
        raise CommandError(
            f"out of {base} it is built with deploy/containers/{content}/Containerfile; leave out --base to take this "
            "machine's Python",
            status=Status.USAGE,
        )
    make_root(context / "root", IMAGES[content])
    lines = ["FROM scratch", "COPY root/ /", *IMAGES[content].directives()]
    (context / _CONTAINER_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _of_bundle(context: Path, bundle: Path, base: str | None) -> None:
    """A context of a bundle: its files, as its archive has them, on a base."""
    import bundles

    from .images.content import BUNDLE, IMAGES
    from .images.root import make_root

    loaded = bundles.Bundle.load(bundle)
    if loaded.manifest.image is not None:
        raise CommandError(
            f"its manifest names the image {loaded.manifest.image} in place of an orchestrator of its own; put a "
            f"{_CONTAINER_FILE} that makes it beside the manifest"
        )
    packed = loaded.pack()
    bundles.unpack(packed.archive, context / "bundle")
    lines = [f"FROM {base or _SCRATCH}", f"COPY bundle/ {BUNDLE}/", f"ENV ARCHELON_BUNDLE={BUNDLE}"]
    if base in (None, _SCRATCH):
        make_root(context / "root", IMAGES["orchestrator"])
        lines[1:1] = ["COPY root/ /", *IMAGES["orchestrator"].directives()]
    (context / _CONTAINER_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
