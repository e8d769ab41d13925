"""`archelon demo`: runs the steps of `demo.steps` in a temporary state directory, and removes everything afterwards."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ..dev import stop_signals
from ..errors import CommandError, Status
from ..output import program_name
from ..state_directory import StateDirectory

if TYPE_CHECKING:
    from .scenarios import Scenario
    from .stage import Stage
    from .steps import Step

#: Apart from the default ports of `archelon dev`, and random, so that demos can run at the same time.
_FIRST_PORTS: Final = range(10000, 18000, 40)


@click.command()
@click.option("--keep", is_flag=True, help="Keep an instance and all services running until Ctrl-C, to explore.")
def demo(keep: bool) -> int:
    """Demonstrate and verify a whole service lifecycle: order, use, scale, heal, survive a crash, dispose, nothing left."""
    from archelon_core.private_files import private_umask

    from ..all_in_one import AllInOne
    from .scenarios import choose
    from .stage import Stage
    from .steps import STEPS

    private_umask()
    begun = time.monotonic()
    # SIGTERM stops everything, like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scenario = choose()
    with _directory() as (path, keep_logs):
        state = StateDirectory(path)
        with state.locked():
            state.make(host="127.0.0.1", first_port=random.choice(_FIRST_PORTS))  # nosec  # noqa: S311 - no secret
            system = AllInOne(state, lambda line: click.echo(f"    ({line})"))
            stage = Stage(state, system, show=click.echo)
            try:
                steps = [each for each in STEPS if each.applies(scenario) and not (keep and each.takes_down)]
                perform(stage, scenario, steps, since=begun)
                if keep:
                    _stay(stage)
            except CommandError:
                keep_logs.set()
                raise
            finally:
                stage.close()
                left = system.down()
                if left:
                    click.echo("could not be stopped: " + ", ".join(left), err=True)
    if scenario.missing:
        raise CommandError(f"all steps passed, but the demo is incomplete: {'; '.join(scenario.missing)}")
    return Status.DONE


def perform(stage: Stage, scenario: Scenario, steps: Sequence[Step], *, since: float) -> None:
    """Run the steps of a demo that started at `since` (`time.monotonic`). Raises CommandError if one fails."""
    from .stage import ExpectedError

    for number, step in enumerate(steps, 1):
        click.secho(f"{number}/{len(steps)}  {step.title}", bold=True)
        click.echo(f"    {(step.run.__doc__ or '').strip()}")
        at = time.monotonic()
        try:
            step.run(stage, scenario)
        except Exception as error:
            if not isinstance(error, ExpectedError | CommandError):
                click.echo(f"    {type(error).__name__} in this step", err=True)
            raise CommandError(
                f"step {number}, {step.title!r}, failed: {error}\nthe logs are in {stage.state.logs}"
            ) from error
        click.secho(f"    done in {time.monotonic() - at:.1f} s", fg="green")
    click.secho(f"All {len(steps)} steps passed in {time.monotonic() - since:.1f} s.", fg="green", bold=True)


def _stay(stage: Stage) -> None:
    url, token, program = stage.state.url(), stage.state.path / "tokens.json", program_name()
    click.echo("\nEverything keeps running until Ctrl-C. In another terminal, try:\n")
    click.echo(f'  T=$(python3 -c \'import json; print(json.load(open("{token}"))["tenant"])\')')
    click.echo(f'  curl -H "X-Auth-Token: $T" {url}/-/')
    click.echo(f'  curl -H "X-Auth-Token: $T" {url}{stage.path}')
    click.echo(f'  curl -X DELETE -H "X-Auth-Token: $T" {url}{stage.path}')
    click.echo(f"  {program} instance list --state {stage.state.path}")
    stopped = threading.Event()
    with stop_signals(stopped):
        stopped.wait()


@contextlib.contextmanager
def _directory() -> Iterator[tuple[Path, threading.Event]]:
    """A temporary directory, which is kept if the event is set, for its logs."""
    path = Path(tempfile.mkdtemp(prefix="archelon-demo-"))
    keep = threading.Event()
    try:
        yield path, keep
    finally:
        if not keep.is_set():
            shutil.rmtree(path)
