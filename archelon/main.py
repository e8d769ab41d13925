"""The command `archelon`: names what there is, and loads a command's module only when that command runs.

So `archelon --help` imports click and nothing of the rooms. Every command returns its exit status, or raises; here alone an
error becomes a line on standard error.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from .errors import CommandError, Status, explained

__all__ = ["Lazy", "main"]

#: Command to module, name in it, and the line of `--help`.
_COMMANDS: Final = {
    "dev": ("dev", "dev", "Run everything on this machine."),
    "demo": ("demo.command", "demo", "Show the main job from start to end, and prove it."),
    "service": ("service", "service", "See what can be ordered."),
    "instance": ("instance", "instance", "Order instances and look after them."),
    "new": ("bundle", "new", "Make a bundle that works, to start from."),
    "validate": ("bundle", "validate", "Tell everything that is wrong with a bundle."),
    "test": ("bundle", "test", "Run a bundle's own tests."),
    "build": ("build", "build", "Make an image of a bundle, or one of our own."),
    "publish": ("service", "publish", "Offer a bundle as a service."),
    "withdraw": ("service", "withdraw", "Take no more orders for a service."),
    "realm": ("realm", "realm", "Tenants, users and tokens of the local realm."),
    "keys": ("keys", "keys", "Make the keys of the services."),
    "service-manager": ("serving", "service_manager", "Serve the service manager's web."),
    "cloud-controller": ("serving", "cloud_controller", "Serve the cloud controller's modules."),
    "worker": ("serving", "worker", "Do the work of one of the two."),
    "db": ("serving", "db", "Bring a database's schema up to date."),
    "conformance": ("conformance", "conformance", "Test an orchestrator in any language."),
}


class Lazy(click.Group):
    """A group whose members are imported when they are used."""

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
@click.option("--debug", is_flag=True, help="Show where an unexpected error came from.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def archelon(context: click.Context, debug: bool) -> None:
    """Turns software into a service that tenants order over OCCI, and runs each order's whole life."""
    context.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status. See `failures.Status`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = archelon.main(args=given, prog_name="archelon", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx is not None else "")
        return Status.USAGE
    except click.UsageError as error:
        hint = f"; see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
        return _say(CommandError(f"{error.format_message().rstrip('.')}{hint}", status=Status.USAGE))
    except click.ClickException as error:
        return _say(CommandError(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        return _say(CommandError("interrupted", status=Status.INTERRUPTED))
    except BrokenPipeError:
        # The reader of our output has left, as `head` does: that is no error. The interpreter's last flush must not say so.
        sys.stdout = None
        return Status.DONE
    except Exception as error:  # noqa: BLE001 - the one place that turns what is left into a line
        if "--debug" in given[:1]:
            traceback.print_exc()
        failure = explained(error)
        if failure is None:
            words = " ".join(str(error).split())[:500]
            failure = CommandError(f"unexpected {type(error).__name__}: {words}; `archelon --debug …` shows where")
        return _say(failure)
    return result if isinstance(result, int) else Status.DONE


def _say(failure: CommandError) -> int:
    click.echo(f"archelon: {failure}", err=True)
    return failure.status
