"""The command `archelon`, which imports the module of a command only when it runs.

`archelon --help` imports only click. Every command returns its exit status or raises; errors are printed here and nowhere else.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final

import click

from .errors import CommandError, Status, as_command_error

#: Module, name in the module and help line of each command.
_COMMANDS: Final = {
    "dev": ("dev", "dev", "Run everything on this machine."),
    "demo": ("demo.command", "demo", "Demonstrate and verify a whole service lifecycle."),
    "status": ("status", "status", "Show services, instances and the platform."),
    "service": ("service", "service", "List the services that can be ordered."),
    "instance": ("instance", "instance", "Order and manage instances."),
    "operator": ("operator", "operator", "Operate a service manager."),
    "import": ("importing", "import_", "Begin a bundle from one for Hurtle."),
    "new": ("bundle", "new", "Create a working bundle."),
    "validate": ("bundle", "validate", "Report the problems of a bundle."),
    "test": ("bundle", "test", "Run a bundle's own tests."),
    "build": ("build", "build", "Build an image of a bundle, or of Archelon."),
    "publish": ("service", "publish", "Publish a bundle as a service."),
    "rollout": ("rollout", "rollout", "Roll the instances of a service to its bundle."),
    "withdraw": ("service", "withdraw", "Stop accepting orders for a service."),
    "realm": ("realm", "realm", "Manage tenants, users and tokens of the local realm."),
    "keys": ("keys", "keys", "Create the keys of the services."),
    "service-manager": ("serving", "service_manager", "Run the service manager's web server."),
    "cloud-controller": ("serving", "cloud_controller", "Run the cloud controller's modules."),
    "worker": ("serving", "worker", "Run a worker of either service."),
    "db": ("serving", "db", "Upgrade a database schema."),
    "completion": ("completion", "completion", "Print the script for completion in a shell."),
    "conformance": ("conformance", "conformance", "Test an orchestrator in any language."),
}


class Lazy(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _COMMANDS.get(cmd_name)
        if found is None:
            return None
        command = getattr(importlib.import_module(f".{found[0]}", __package__), found[1])
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


def _version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from archelon_core.version import __version__

        click.echo(f"archelon {__version__}")
        context.exit()


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Print the traceback of an unexpected error.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def archelon(context: click.Context, debug: bool) -> None:
    """Turns software into a service that tenants order over OCCI, and manages the lifecycle of each order."""
    context.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status (see `errors.Status`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = functools.partial(archelon.main, args=given, prog_name="archelon", standalone_mode=False)
    return reported(command, debug="--debug" in given[:1])


def reported(command: Callable[[], object], *, debug: bool) -> int:
    """Call a function, print its error, if there is one, and return the exit status."""
    try:
        result = command()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx is not None else "")
        return Status.USAGE
    except click.UsageError as error:
        hint = f"; see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
        return _print_error(CommandError(f"{error.format_message().rstrip('.')}{hint}", status=Status.USAGE))
    except click.ClickException as error:
        return _print_error(CommandError(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        return _print_error(CommandError("interrupted", status=Status.INTERRUPTED))
    except BrokenPipeError:
        # The reader of the output, such as `head`, has exited. The interpreter's final flush must not report it.
        sys.stdout = None
        return Status.DONE
    except Exception as error:  # noqa: BLE001 - the top level reports all errors
        if debug:
            import traceback

            traceback.print_exc()
        failure = as_command_error(error)
        if failure is None:
            words = " ".join(str(error).split())[:500]
            failure = CommandError(
                f"unexpected {type(error).__name__}: {words}; `archelon --debug …` prints the traceback"
            )
        return _print_error(failure)
    return result if isinstance(result, int) else Status.DONE


def _print_error(failure: CommandError) -> int:
    from .output import for_terminal

    # An error may quote what a service or a node has sent.
    click.echo(f"archelon: {for_terminal(str(failure))}", err=True)
    return failure.status
