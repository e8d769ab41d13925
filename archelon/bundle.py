"""`archelon new`, `validate` and `test`: commands for authors of bundles. None of them needs a running service."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .errors import CommandError, Status
from .output import Output, output_option

if TYPE_CHECKING:
    from bundles import Problem

_SKELETON: Final = Path(__file__).parent / "skeleton"
_TERM: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
#: Limits on the import of an orchestrator.
_IMPORT_SECONDS: Final = 60.0
_IMPORT_MEMORY: Final = 2 << 30
_bundle = click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--term", help="The service's term; by default, the directory's name.")
@output_option
def new(directory: Path, term: str | None, output: Output) -> None:
    """Create a bundle in DIRECTORY that validates, passes its tests and can be published."""
    chosen = term or directory.resolve().name
    if _TERM.fullmatch(chosen) is None:
        raise CommandError(
            f"{chosen!r} is not a valid term: use lower-case letters, digits and '-', starting with a letter; give --term",
            status=Status.USAGE,
        )
    if directory.exists() and any(directory.iterdir()):
        raise CommandError(f"{directory} is not empty; name a new directory", status=Status.CONFLICT)
    shutil.copytree(_SKELETON, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in sorted(directory.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        # Only the term: the greeting starts with a capital.
        path.write_text(
            re.sub(r"\bhello\b", chosen, text).replace("title: Hello", f"title: {chosen}"), encoding="utf-8"
        )
    files = sorted([str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()])
    output.line(
        f"{directory} contains a bundle: {', '.join(files)}\nnext: archelon test {directory} && archelon publish {directory}",
        directory=str(directory),
        files=files,
    )


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@output_option
def validate(path: Path, output: Output) -> int:
    """Report every problem of a bundle's directory, or of a manifest alone. Exits with 1 if there are any.

    The files are checked as when the bundle is published; its orchestrator.py is also imported, in a process of its own.
    """
    import dataclasses

    import bundles

    problems = bundles.validate(path)
    problems += _import_problems(path, problems)
    if output.as_json:
        output.document([dataclasses.asdict(each) for each in problems])
    else:
        for each in problems:
            click.echo(str(each))
        if not problems:
            click.echo(f"{path} is valid")
            if path.is_dir() and bundles.Bundle.load(path).is_for_hurtle:
                click.echo(
                    f"its code for Hurtle is not run; `archelon import hurtle {path}` begins an orchestrator from it"
                )
    return Status.FAILED if problems else Status.DONE


def _import_problems(path: Path, others: Sequence[Problem]) -> list[Problem]:
    """The problems of the code that appear when it is imported, as the SDK does; only the author's own machine does so here."""
    import bundles
    from archelon_core.child import Child, ChildError
    from bundles.code import ORCHESTRATOR_FILE

    if not (path / ORCHESTRATOR_FILE).is_file() or any(each.file == ORCHESTRATOR_FILE for each in others):
        return []
    child = Child(seconds=_IMPORT_SECONDS, memory=_IMPORT_MEMORY)
    try:
        found = child.call("sdk.runtime.loading:problems_here", str(path.resolve()))
    except ChildError as error:
        return [bundles.Problem(ORCHESTRATOR_FILE, 0, 0, "", f"to import it, {error}", "do less at its top level")]
    finally:
        child.close()
    return [bundles.Problem(*each) for each in found]


@click.command(context_settings={"ignore_unknown_options": True})
@_bundle
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def test(directory: Path, pytest_arguments: tuple[str, ...]) -> int:
    """Run the tests in a bundle's directory `tests` with pytest."""
    import importlib.util

    tests = directory / "tests"
    if not tests.is_dir():
        raise CommandError(f"{directory} has no directory `tests`; see a bundle made by `archelon new`")
    if importlib.util.find_spec("pytest") is None:
        raise CommandError("pytest is not installed; install it with `pip install pytest`", status=Status.USAGE)
    root = str(Path(__file__).resolve().parent.parent)
    # A separate root and no cache, to ignore the settings and files of an enclosing project.
    own = ["--rootdir", str(directory), "-c", "/dev/null", "-p", "no:cacheprovider", "-q"]
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {root!r}); import pytest; sys.exit(pytest.main())",
    ]
    ended = subprocess.run([*command, *own, str(tests), *pytest_arguments], check=False)  # noqa: S603 - our own list
    return Status.DONE if ended.returncode == 0 else Status.FAILED
