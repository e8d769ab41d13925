"""`archelon demo`: plays the steps of `demo.steps` in a state directory of its own, and takes everything down again."""

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

from ..dev import until_told
from ..errors import CommandError, Status
from ..state_directory import StateDirectory

if TYPE_CHECKING:
    from .plays import Play
    from .stage import Stage
    from .steps import Step

#: Away from where an all-in-one of a person's own listens, and from another demo at the same time.
_FIRST_PORTS: Final = range(10000, 18000, 40)


@click.command()
@click.option("--keep", is_flag=True, help="Leave an instance and everything else running until Ctrl-C, to try more.")
def demo(keep: bool) -> int:
    """Show the main job from start to end, and prove it: order, use, scale, heal, survive a crash, dispose, nothing left."""
    from archelon_core.private_files import private_umask

    from ..all_in_one import AllInOne
    from .plays import chosen
    from .stage import Stage
    from .steps import STEPS

    private_umask()
    begun = time.monotonic()
    # Told to end, it ends as with Ctrl-C: by taking everything down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    play = chosen()
    with _directory() as (path, keep_logs):
        state = StateDirectory(path)
        with state.held():
            state.make(host="127.0.0.1", first_port=random.choice(_FIRST_PORTS))  # nosec  # noqa: S311 - no secret
            system = AllInOne(state, lambda line: click.echo(f"    ({line})"))
            stage = Stage(state, system, show=click.echo)
            try:
                steps = [each for each in STEPS if each.applies(play) and not (keep and each.takes_down)]
                perform(stage, play, steps, since=begun)
                if keep:
                    _stay(stage)
            except CommandError:
                keep_logs.set()
                raise
            finally:
                stage.close()
                left = system.down()
                if left:
                    click.echo("could not be ended: " + ", ".join(left), err=True)
    if play.missing:
        raise CommandError(f"what was shown works, but not all was shown: {'; '.join(play.missing)}")
    return Status.DONE


def perform(stage: Stage, play: Play, steps: Sequence[Step], *, since: float) -> None:
    """Play the steps. Raises CommandError at the first that does not come out; it says what was expected and where the logs are.

    Args:
        since: when all of it began, by `time.monotonic`.
    """
    from .stage import ExpectedError

    for number, step in enumerate(steps, 1):
        click.secho(f"{number}/{len(steps)}  {step.title}", bold=True)
        click.echo(f"    {(step.run.__doc__ or '').strip()}")
        at = time.monotonic()
        try:
            step.run(stage, play)
        except Exception as error:
            if not isinstance(error, ExpectedError | CommandError):
                click.echo(f"    {type(error).__name__} in this step", err=True)
            raise CommandError(
                f"step {number}, {step.title!r}, did not come out: {error}\nthe logs are in {stage.state.logs}"
            ) from error
        click.secho(f"    done in {time.monotonic() - at:.1f} s", fg="green")
    click.secho(f"All {len(steps)} steps came out, in {time.monotonic() - since:.1f} s.", fg="green", bold=True)


def _stay(stage: Stage) -> None:
    url, token = stage.state.url(), stage.state.path / "tokens.json"
    click.echo("\nIt goes on until Ctrl-C. In another terminal, for example:\n")
    click.echo(f'  T=$(python3 -c \'import json; print(json.load(open("{token}"))["tenant"])\')')
    click.echo(f'  curl -H "X-Auth-Token: $T" {url}/-/')
    click.echo(f'  curl -H "X-Auth-Token: $T" {url}{stage.path}')
    click.echo(f'  curl -X DELETE -H "X-Auth-Token: $T" {url}{stage.path}')
    click.echo(f"  archelon instance list --state {stage.state.path}")
    stopped = threading.Event()
    with until_told(stopped):
        stopped.wait()


@contextlib.contextmanager
def _directory() -> Iterator[tuple[Path, threading.Event]]:
    """A directory that goes at the end, unless the event is set: then its logs are wanted."""
    path = Path(tempfile.mkdtemp(prefix="archelon-demo-"))
    wanted = threading.Event()
    try:
        yield path, wanted
    finally:
        if not wanted.is_set():
            shutil.rmtree(path)
