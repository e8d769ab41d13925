"""`archelon import hurtle`: begins a bundle from one for Hurtle. Nothing of it is executed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import click

from .errors import CommandError, Status
from .output import Output, output_option

#: Where the code of a bundle for Hurtle is.
_CODE: Final = ("wsgi/so.py", "so.py")


@click.group("import")
def import_() -> None:
    """Begin a bundle from one for another system."""


@import_.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), required=False)
@output_option
def hurtle(directory: Path, out: Path | None, output: Output) -> int:
    """Write a bundle to OUT, by default a directory named after the service, from the bundle for Hurtle in DIRECTORY.

    The manifest and the templates are taken over. The methods of so.py become an orchestrator.py that works like a bundle
    without one and names what is to be ported.
    """
    import bundles
    from bundles.bundle import HURTLE_MANIFEST
    from bundles.code import ORCHESTRATOR_FILE

    source = directory if (directory / HURTLE_MANIFEST).is_file() else directory / "bundle"
    place = source / HURTLE_MANIFEST
    if not place.is_file():
        raise CommandError(
            f"{directory} has no {HURTLE_MANIFEST}; name the directory that contains `data`", status=Status.NOT_FOUND
        )
    manifest, term = _manifest(place)
    target = out or Path(term)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CommandError(f"{target} is not an empty directory; name a new one", status=Status.CONFLICT)
    ported, text = _orchestrator(source, term)
    _take_files(source, target, leave=place)
    _resolve_paths(manifest, target)
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if text:
        (target / ORCHESTRATOR_FILE).write_text(text, encoding="utf-8")
    problems = bundles.validate(target)
    if output.as_json:
        output.document({"directory": str(target), "methods": ported, "problems": [str(each) for each in problems]})
        return Status.FAILED if problems else Status.DONE
    click.echo(f"{target} contains a bundle; docs/coming-from-hurtle.md says how to continue")
    if ported:
        click.echo(f"{ORCHESTRATOR_FILE} names what is to be ported: {', '.join(ported)}")
    for each in problems:
        click.echo(str(each))
    if not problems:
        click.echo(f"next: archelon validate {target} && archelon publish {target}")
    return Status.FAILED if problems else Status.DONE


def _manifest(place: Path) -> tuple[dict[str, Any], str]:
    """Return a manifest as it is written, and the service's term. Raises BundleError: it is not a document."""
    from archelon_core.documents.reading import only_document, read_file
    from archelon_core.documents.tree import plain
    from bundles.manifest_reading import MANIFEST_LIMITS, NEEDED

    document: Any = plain(
        only_document(read_file(place, name=place.name, limits=MANIFEST_LIMITS), place.name, needed=NEEDED)
    )
    service_type = document.get("service_type") if isinstance(document, dict) else None
    term = service_type.rpartition("#")[2] if isinstance(service_type, str) else ""
    if not term.replace("-", "").replace("_", "").isalnum() or not term.isascii():
        raise CommandError(
            f"{place} has no service_type with a term; write one such as http://schemas.example.org/occi/sm#demo"
        )
    return document, term


def _take_files(source: Path, target: Path, *, leave: Path) -> None:
    # Links are copied as links: what they point to may be no part of the bundle, and validation refuses them.
    shutil.copytree(
        source / "data",
        target / "data",
        symlinks=True,
        ignore=lambda directory, names: [name for name in names if Path(directory, name) == leave],
    )
    parameters = source / "service_params.json"
    if parameters.is_file() and not parameters.is_symlink():
        shutil.copyfile(parameters, target / parameters.name)


def _resolve_paths(manifest: dict[str, Any], target: Path) -> None:
    """Make every path of a template relative to the bundle: `file:///home/me/x/data/a.yaml` is `data/a.yaml` if that exists."""
    from bundles.manifest_reading import bundle_path

    resources = manifest.get("resources")
    for region in resources.values() if isinstance(resources, dict) else []:
        for part in ("deployment", "provision"):
            if isinstance(region, dict) and isinstance(region.get(part), str):
                path = bundle_path(region[part])
                steps = path.split("/")
                ends = ["/".join(steps[index:]) for index in range(len(steps)) if ".." not in steps]
                region[part] = next((end for end in ends if end and (target / end).is_file()), path)


def _orchestrator(source: Path, term: str) -> tuple[list[str], str]:
    """Return the methods of a `so.py`, and the text of an orchestrator with them; both empty without a `so.py`."""
    import sdk

    from .hurtle_code import read_code, skeleton

    name = next((each for each in _CODE if (source / each).is_file()), None)
    if name is None:
        return [], ""
    try:
        code = read_code((source / name).read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise CommandError(
            f"{source / name} cannot be read: {error}; correct it, or remove it to import the rest"
        ) from None
    # Every orchestrator has these: the members of its class, and what its constructor sets.
    taken = [*dir(sdk.Orchestrator), *sdk.Orchestrator.__init__.__code__.co_names]
    return [f"{each.owner}.{each.name}" for each in code.methods if each.of], skeleton(
        code, term=term, file=name, taken=taken
    )
