"""`archelon conformance`: whether an orchestrator, in any language, says and does what it has to.

It is led through a whole life, with the tokens and the services of a bench around it. A command is started here, and killed and
started again in the middle. One that somebody else starts, such as a container, gets the bench's environment from them: it is
said first, and then waited until the orchestrator asks for its tokens.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import CommandError, Status
from .output import Answers, output_option

if TYPE_CHECKING:
    from sdk.testing import http_fakes


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@output_option
@click.option("--listen", default="127.0.0.1:0", metavar="ADDRESS:PORT", help="Where the orchestrator is to call.")
@click.option(
    "--environment-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With a URL: write the environment there, NAME=value a line, instead of to standard error.",
)
@click.option("--patience", default=300.0, show_default=True, help="With a URL: seconds in which it is to be started.")
@click.option(
    "--prompt", default=2.0, show_default=True, help="Seconds in which it has to answer, whatever it is told."
)
@click.argument("command", metavar="(COMMAND… | URL)", nargs=-1, required=True, type=click.UNPROCESSED)
def conformance(
    command: tuple[str, ...],
    listen: str,
    environment_file: Path | None,
    patience: float,
    prompt: float,
    answers: Answers,
) -> int:
    """Test the orchestrator that COMMAND starts, or that of a bundle's directory. It listens on HOST and PORT.

    Or the one that you start at URL, with the environment that this says first.

    Ends with 1 if a check fails; the first that does is the one to look at.
    """
    from sdk.testing import conformance as checks
    from sdk.testing import http_fakes

    by_url = checks.is_url(command[0])
    if by_url and len(command) > 1:
        raise CommandError("one URL is taken, and options come before it", status=Status.USAGE)
    if not by_url and environment_file is not None:
        raise CommandError("--environment-file is for a URL: a command is started here", status=Status.USAGE)
    try:
        with contextlib.ExitStack() as stack:
            around = stack.enter_context(http_fakes.Bench(listen=_address(listen)))
            restart = None
            if by_url:
                _say(around, environment_file)
                url = checks.awaited(command[0].rstrip("/"), around, patience=patience)
            else:
                # What it prints belongs to standard error: standard output is for the findings.
                printed = sys.__stderr__.fileno() if sys.__stderr__ is not None else None
                url, restart = stack.enter_context(checks.started(_started_by(command), around, output=printed))
            findings = checks.check(url, around, restart=restart, prompt=prompt)
    except RuntimeError as error:
        raise CommandError(str(error)) from error
    answers.rows(
        [
            {"check": each.name, "outcome": "ok" if each.passed else "failed", "problem": each.problem}
            for each in findings
        ],
        ["outcome", "check", "problem"],
        empty="nothing was checked",
    )
    return Status.DONE if all(each.passed for each in findings) else Status.FAILED


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise CommandError(f"--listen is {text[:80]!r}; give ADDRESS:PORT", status=Status.USAGE)
    return host, int(port)


def _started_by(command: tuple[str, ...]) -> tuple[str, ...]:
    bundle = Path(command[0])
    if len(command) > 1 or not bundle.is_dir():
        return command
    # For the child: this installation's SDK, wherever it is run from.
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return (sys.executable, "-m", "sdk.serve", str(bundle))


def _say(around: http_fakes.Bench, file: Path | None) -> None:
    from sdk.testing import conformance as checks

    lines = checks.environment_lines(around)
    if file is None:
        click.echo("start it with this environment, and HOST and PORT as the URL has them:", err=True)
        for line in lines:
            click.echo(line, err=True)
        return
    # Whole or not at all: who waits for the file may read it as soon as it is there. A token is in it.
    draft = file.with_name(f"{file.name}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
    draft.replace(file)
