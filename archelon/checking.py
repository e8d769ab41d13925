"""`archelon conformance`: whether an orchestrator, in any language, says and does what it has to.

It is led through a whole life, killed and started again; so it is started here, with the tokens and the services of a bench
around it. One that runs already has other tokens and cannot be tested.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from .answers import Answers, output_option
from .failures import CommandError, Status

__all__ = ["conformance"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@output_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def conformance(command: tuple[str, ...], answers: Answers) -> int:
    """Test the orchestrator that COMMAND starts, or that of a bundle's directory. It listens on HOST and PORT.

    Ends with 1 if a check fails; the first that does is the one to look at.
    """
    from sdk import bench
    from sdk import conformance as checks

    if command[0].startswith(("http://", "https://")):
        raise CommandError(
            "an orchestrator is started for its test, and killed: give the command that starts it", status=Status.USAGE
        )
    bundle = Path(command[0])
    if len(command) == 1 and bundle.is_dir():
        # For the child: this installation's SDK, wherever it is run from.
        root = str(Path(__file__).resolve().parent.parent)
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = (sys.executable, "-m", "sdk.serve", str(bundle))
    # What it prints belongs to standard error: standard output is for the findings.
    printed = sys.__stderr__.fileno() if sys.__stderr__ is not None else None
    try:
        with bench.Bench() as around, checks.started(command, around, output=printed) as (url, restart):
            findings = checks.check(url, around, restart=restart)
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
