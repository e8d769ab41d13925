"""`archelon conformance`: tests an orchestrator in any language against the orchestrator protocol.

The checks run it through a whole lifecycle against a bench with tokens and fake services. An orchestrator given as a command is
started here, and killed and restarted midway. For one at a URL, such as a container, the command prints the environment to start
it with, and waits until it requests its tokens.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import CommandError, Status
from .output import Output, output_option

if TYPE_CHECKING:
    from sdk.testing import http_fakes


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@output_option
@click.option("--listen", default="127.0.0.1:0", metavar="ADDRESS:PORT", help="Address of the bench's services.")
@click.option(
    "--environment-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With a URL: write the environment to this file, a line NAME=value each, instead of to standard error.",
)
@click.option("--start-timeout", default=300.0, show_default=True, help="With a URL: seconds to wait for its start.")
@click.option(
    "--prompt", default=2.0, show_default=True, help="Seconds within which it has to respond to each request."
)
@click.argument("command", metavar="(COMMAND… | URL)", nargs=-1, required=True, type=click.UNPROCESSED)
def conformance(
    command: tuple[str, ...],
    listen: str,
    environment_file: Path | None,
    start_timeout: float,
    prompt: float,
    output: Output,
) -> int:
    """Test the orchestrator that COMMAND starts, or that of a bundle's directory. It has to listen on HOST and PORT.

    Or test the one that you start at URL with the environment that this command prints.

    Exits with 1 if a check fails; start with the first failed check.
    """
    from sdk.testing import conformance as checks
    from sdk.testing import http_fakes

    by_url = checks.is_url(command[0])
    if by_url and len(command) > 1:
        raise CommandError("expected one URL; options come before it", status=Status.USAGE)
    if not by_url and environment_file is not None:
        raise CommandError("--environment-file is for a URL; a command is started here", status=Status.USAGE)
    try:
        with contextlib.ExitStack() as stack:
            bench = stack.enter_context(http_fakes.Bench(listen=_address(listen)))
            restart = None
            if by_url:
                _print_environment(bench, environment_file)
                url = checks.await_start(command[0].rstrip("/"), bench, timeout=start_timeout)
            else:
                # Its output goes to standard error: standard output is for the findings.
                printed = sys.__stderr__.fileno() if sys.__stderr__ is not None else None
                url, restart = stack.enter_context(checks.started(_started_by(command), bench, output=printed))
            findings = checks.check(url, bench, restart=restart, prompt=prompt)
    except RuntimeError as error:
        raise CommandError(str(error)) from error
    output.rows(
        [
            {"check": each.name, "outcome": "ok" if each.passed else "failed", "problem": each.problem}
            for each in findings
        ],
        ["outcome", "check", "problem"],
        empty="no checks ran",
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
    # Lets the child import this installation's SDK.
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return (sys.executable, "-m", "sdk.serve", str(bundle))


def _print_environment(bench: http_fakes.Bench, file: Path | None) -> None:
    from sdk.testing import conformance as checks

    lines = checks.environment_lines(bench)
    if file is None:
        click.echo("start it with this environment, and with HOST and PORT of the URL:", err=True)
        for line in lines:
            click.echo(line, err=True)
        return
    # Written atomically, because a script may wait for the file; private, because it contains a token.
    draft = file.with_name(f"{file.name}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
    draft.replace(file)
