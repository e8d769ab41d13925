"""`archelon build`: container images of bundles that do not fit a ConfigMap, and the base images.

Images are built from this machine's Python, which needs no registry, or on a base image (`--base`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import click

from .errors import CommandError, Status
from .output import Output, output_option

_SCRATCH: Final = "scratch"
_CONTAINER_FILE: Final = "Containerfile"


@click.command()
@click.argument("bundle", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--image", required=True, help="Name of the image, such as registry.example.org/guestbook:1.")
@click.option("--base", help="Base image; by default, or with `scratch`, this machine's Python.")
@click.option("--of", "content", help="Without a bundle: the image of Archelon to build, orchestrator or services.")
@click.option("--builder", help="buildah, podman or docker; by default, the first that is installed.")
@click.option("--archive", type=click.Path(dir_okay=False, path_type=Path), help="Also write the image to this file.")
@output_option
def build(
    bundle: Path | None,
    image: str,
    base: str | None,
    content: str | None,
    builder: str | None,
    archive: Path | None,
    output: Output,
) -> None:
    """Build an image of BUNDLE to run its orchestrator from.

    A bundle with its own Containerfile, such as one in another language, is built from that; `--base` sets its build
    argument BASE. Any other bundle is added to the base image of orchestrators.
    """
    from .images import builders
    from .images.root import RootError

    # In the image, the files are read by another user.
    os.umask(0o022)
    try:
        chosen = builders.find(builder)
        with tempfile.TemporaryDirectory(prefix="archelon-build-") as name:
            context = Path(name)
            arguments: dict[str, str] = {}
            if bundle is None:
                _prepare_own(context, content, base)
            elif content is not None:
                raise CommandError("give either a bundle or --of, not both", status=Status.USAGE)
            elif (bundle / _CONTAINER_FILE).exists():
                context = bundle
                arguments = {"BASE": base} if base else {}
            else:
                _prepare_bundle(context, bundle, base)
            chosen.build(context, image, arguments=arguments)
        if archive is not None:
            chosen.save(image, archive)
    except (builders.BuilderError, RootError) as error:
        raise CommandError(str(error)) from error
    message = f"built {image} with {chosen.name}" + (f"; saved to {archive}" if archive else "")
    output.line(message, image=image, builder=chosen.name, archive=str(archive) if archive else None)


def _prepare_own(context: Path, content: str | None, base: str | None) -> None:
    """Prepare the build context of one of Archelon's own images from this machine's Python."""
    from .images.content import IMAGES
    from .images.root import make_root

    if content is None or content not in IMAGES:
        raise CommandError(f"give a bundle, or --of with one of {', '.join(IMAGES)}", status=Status.USAGE)
    if base not in (None, _SCRATCH):
        raise CommandError(
            f"to build on {base}, use deploy/containers/{content}/Containerfile; omit --base to use this machine's Python",
            status=Status.USAGE,
        )
    make_root(context / "root", IMAGES[content])
    lines = ["FROM scratch", "COPY root/ /", *IMAGES[content].directives()]
    (context / _CONTAINER_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _prepare_bundle(context: Path, bundle: Path, base: str | None) -> None:
    """Prepare the build context of a bundle: the files of its archive on a base."""
    import bundles

    from .images.content import BUNDLE, IMAGES
    from .images.root import make_root

    loaded = bundles.Bundle.load(bundle)
    if loaded.manifest.image is not None:
        raise CommandError(
            f"the manifest names the image {loaded.manifest.image} instead of an orchestrator; put a {_CONTAINER_FILE} that "
            "builds this image beside the manifest"
        )
    packed = loaded.pack()
    bundles.unpack(packed.archive, context / "bundle")
    lines = [f"FROM {base or _SCRATCH}", f"COPY bundle/ {BUNDLE}/", f"ENV ARCHELON_BUNDLE={BUNDLE}"]
    if base in (None, _SCRATCH):
        make_root(context / "root", IMAGES["orchestrator"])
        lines[1:1] = ["COPY root/ /", *IMAGES["orchestrator"].directives()]
    (context / _CONTAINER_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
