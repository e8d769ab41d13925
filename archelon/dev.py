"""`archelon dev`: runs the all-in-one until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import click

from .errors import CommandError, Status
from .main import reported
from .output import program_name
from .state_directory import NAME, VARIABLE, StateDirectory


@click.command()
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(NAME),
    show_default=True,
    envvar=VARIABLE,
    show_envvar=True,
    help="Directory of all persistent state.",
)
@click.option("--host", help="Address to listen on; initially 127.0.0.1, then the previous one.")
@click.option("--force", is_flag=True, help="Listen on an address that other machines can reach.")
@click.option("--port", type=click.IntRange(1024, 65000), help="First port to try at the first start.")
@click.option("--shared", is_flag=True, help="Run bundles of several tenants even if this machine cannot isolate them.")
@click.option("--keep", is_flag=True, help="Leave orchestrators and nodes running at exit.")
@click.pass_context
def dev(
    context: click.Context, state: Path, host: str | None, force: bool, port: int | None, shared: bool, keep: bool
) -> int:
    """Run everything on this machine until Ctrl-C: service manager, cloud controller, local realm, keys, databases.

    A later start with the same state directory continues where this one stopped.
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
    with directory.locked():
        system = AllInOne(directory, lambda line: click.echo(line, err=True), shared=shared)
        system.prepare()

        def prepare_state() -> None:
            directory.make(host=listen, **({"first_port": port} if port else {}))
            if directory.host() != listen:
                directory.move(listen)
            system.write_settings()

        _apart(prepare_state, debug=context.find_root().obj["debug"])
        stopped = threading.Event()
        with stop_signals(stopped):
            try:
                system.up(configured=True)
                _print_summary(directory, system.isolation(), time.monotonic() - begun)
                stopped.wait()
                click.echo("\nstopping…", err=True)
            finally:
                left = system.down(keep=keep)
    if left:
        raise CommandError("could not be stopped: " + ", ".join(left))
    if keep:
        click.echo(
            f"orchestrators and nodes keep running; the next `archelon dev --state {state}` adopts them", err=True
        )
    return Status.DONE


def _apart(function: Callable[[], None], *, debug: bool) -> None:
    """Call a function in a forked process, with which the memory of its imports ends. There must be no threads yet.

    Raises:
        click.exceptions.Exit: the function failed, which is already reported.
    """
    child = os.fork()
    if child == 0:
        # Ctrl-C reaches both; the parent reports it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        status = int(Status.FAILED)
        try:
            status = reported(function, debug=debug)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != Status.DONE:
        raise click.exceptions.Exit(status if status > 0 else Status.FAILED)


@contextlib.contextmanager
def stop_signals(event: threading.Event) -> Iterator[None]:
    """Set an event on SIGINT and SIGTERM; a second signal raises KeyboardInterrupt, to stop without waiting."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_summary(directory: StateDirectory, isolation: str, seconds: float) -> None:
    click.echo(f"service manager   {directory.url()}")
    click.echo(f"cloud controller  {directory.url('cloud_controller')}")
    click.echo(f"state             {directory.path}   logs  {directory.logs}")
    click.echo(f"isolation         {isolation}")
    where, program = directory.path.absolute(), program_name()
    if where.name == NAME:
        click.echo(f"ready in {seconds:.1f} s. In {where.parent} and below, commands find the services, for example:")
    else:
        click.echo(f"ready in {seconds:.1f} s. With this variable, commands find the services, for example:")
        click.echo(f"  export {VARIABLE}={shlex.quote(str(where))}")
    click.echo(f"  {program} new hello && {program} publish hello && {program} instance create hello")
    click.echo("Ctrl-C stops everything.")
