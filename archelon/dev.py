"""`archelon dev`: the all-in-one in a terminal, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType

import click

from .errors import CommandError, Status
from .state_directory import NAME, StateDirectory


@click.command()
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(NAME),
    show_default=True,
    help="Directory of everything that has to last.",
)
@click.option("--host", help="Address to listen on; 127.0.0.1 at first, then the one before.")
@click.option("--force", is_flag=True, help="Listen on an address that other machines can reach.")
@click.option("--port", type=click.IntRange(1024, 65000), help="Where to look for free ports, at the first start.")
@click.option(
    "--shared", is_flag=True, help="Run several tenants' bundles even where this machine cannot keep them apart."
)
@click.option("--keep", is_flag=True, help="At the end, leave orchestrators and nodes running.")
def dev(state: Path, host: str | None, force: bool, port: int | None, shared: bool, keep: bool) -> int:
    """Run everything on this machine, until Ctrl-C: service manager, cloud controller, local realm, keys, databases.

    A second start on the same state goes on with what was there.
    """
    from archelon_core.addresses import is_loopback
    from archelon_core.private_files import private_umask

    from .all_in_one import AllInOne

    private_umask()
    directory = StateDirectory(state)
    listen = host or (directory.host() if directory.exists else "127.0.0.1")
    if not is_loopback(listen) and not force:
        raise CommandError(
            f"{listen} can be reached from other machines, and the local platform runs bundles on this one; "
            "give --force if that is what you want",
            status=Status.USAGE,
        )
    begun = time.monotonic()
    with directory.held():
        directory.make(host=listen, **({"first_port": port} if port else {}))
        if directory.host() != listen:
            directory.move(listen)
        system = AllInOne(directory, lambda line: click.echo(line, err=True), shared=shared)
        stopped = threading.Event()
        with until_told(stopped):
            try:
                system.up()
                _tell(directory, system.isolation(), time.monotonic() - begun)
                stopped.wait()
                click.echo("\nstopping…", err=True)
            finally:
                left = system.down(keep=keep)
    if left:
        raise CommandError("could not be ended: " + ", ".join(left))
    if keep:
        click.echo("orchestrators and nodes go on; `archelon dev` adopts them", err=True)
    return Status.DONE


class until_told:  # noqa: N801 - reads as a statement
    """While it lasts, SIGINT and SIGTERM set an event; a second one raises KeyboardInterrupt, for who cannot wait."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._told) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_ended: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()


def _tell(directory: StateDirectory, isolation: str, seconds: float) -> None:
    click.echo(f"service manager   {directory.url()}")
    click.echo(f"cloud controller  {directory.url('cloud_controller')}")
    click.echo(f"state             {directory.path}   logs  {directory.logs}")
    click.echo(f"isolation         {isolation}")
    click.echo(f"ready in {seconds:.1f} s. Below this directory `archelon` knows where it is, for example:")
    click.echo("  archelon new hello && archelon publish hello && archelon instance create hello")
    click.echo("Ctrl-C stops everything.")
