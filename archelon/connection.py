"""The service manager's URL and the caller's token, from options, the environment or an all-in-one's state directory.

`--url` takes precedence over ARCHELON_URL, and that over the state directory, which is `--state`, ARCHELON_STATE, or in or above
the working directory. A token is never an argument, because other users of the machine can see arguments: it comes from
ARCHELON_TOKEN or a file. A state directory holds a token for each role; `--as` selects one, with a default for each command. It
is sent only to the directory's own services.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .errors import CommandError, Status
from .state_directory import StateDirectory, present

if TYPE_CHECKING:
    from occi_service import client

Command = TypeVar("Command", bound=Callable[..., Any])
_ROLES = ("tenant", "provider", "operator")


@dataclasses.dataclass(frozen=True, slots=True)
class Connection:
    """URLs and a token.

    Attributes:
        cloud_url: URL of the cloud controller, if known.
        again: reads the token from where it was found, which may hold a newer one by now.
    """

    url: str
    token: str = dataclasses.field(repr=False)
    cloud_url: str | None = None
    again: Callable[[], str] | None = dataclasses.field(default=None, repr=False, compare=False)

    def open(self) -> client.Client:
        """Return a client of the service manager. It reads the token again for every request, if that can be renewed."""
        from archelon_api.service_manager import location_of
        from occi_service import client

        return client.Client(
            self.url,
            token=self.again or self.token,
            token_field="X-Auth-Token",  # nosec  # noqa: S106 - a name
            locations=location_of,
        )

    def module(self, name: str) -> client.Client:
        """Return a client of a module of the cloud controller. Raises CommandError if its URL is not known."""
        from occi_service import client

        if self.cloud_url is None:
            raise CommandError(
                "this command calls the cloud controller; set ARCHELON_CLOUD_CONTROLLER", status=Status.USAGE
            )
        return client.Client(f"{self.cloud_url}/{name}", token=self.again or self.token, token_field="X-Auth-Token")  # nosec  # noqa: S106 - a name


def find(
    *, url: str | None, token_file: Path | None, state: Path | None, role: str, environ: Mapping[str, str], here: Path
) -> Connection:
    """Find the URLs and the token. Raises CommandError, with the variable to set."""
    directory = StateDirectory(state) if state is not None else present(environ, here)
    given = url or environ.get("ARCHELON_URL")
    token = environ.get("ARCHELON_TOKEN")
    again = None
    if token_file is not None:
        token = _token_in(token_file)
        again = functools.partial(_token_in, token_file, token)
    cloud = environ.get("ARCHELON_CLOUD_CONTROLLER")
    if given is None and directory is None:
        raise CommandError(
            "no service manager is known: set ARCHELON_URL and ARCHELON_TOKEN, or run `archelon dev` and this command in the "
            "same directory or below it; --state and ARCHELON_STATE name a directory elsewhere",
            status=Status.USAGE,
        )
    if directory is not None and (given is None or given.rstrip("/") == directory.url()):
        own = directory.url("cloud_controller")
        return (
            Connection(directory.url(), token, cloud or own, again)
            if token
            else Connection(directory.url(), directory.token(role), own, functools.partial(directory.token, role))
        )
    if not token:
        raise CommandError(f"no token for {given}: set ARCHELON_TOKEN, or give --token-file", status=Status.USAGE)
    assert given is not None
    return Connection(given, token, cloud, again)


def _token_in(file: Path, before: str = "") -> str:
    """Return the token in a file, or the one before while the file is being rewritten and is empty. Raises CommandError."""
    try:
        return file.read_text(encoding="utf-8").strip() or before
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: no token can be read from this file ({error})", status=Status.USAGE) from None


def repeated_options() -> list[str]:
    """Return the present command's own connection options, for a further command that a message suggests."""
    context = click.get_current_context(silent=True)
    found: list[str] = []
    for each in context.command.params if context is not None else ():
        assert context is not None
        given = context.get_parameter_source(str(each.name)) is click.core.ParameterSource.COMMANDLINE
        if given and each.name in ("url", "token_file", "state", "role"):
            found += [each.opts[0], shlex.quote(str(context.params[each.name]))]
    return found


def service_options(
    usual: str = "tenant", *, unless: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Command], Command]:
    """Decorate a command with the connection options, with a default for `--as`, and a `connection` argument.

    Args:
        usual: the default. unless: other defaults, by the name of an option with which they apply.
    """

    def decorate(command: Command) -> Command:
        @click.option("--url", help="URL of the service manager; default ARCHELON_URL.")
        @click.option(
            "--token-file", type=click.Path(path_type=Path), help="File with the token; default ARCHELON_TOKEN."
        )
        @click.option(
            "--state",
            type=click.Path(path_type=Path),
            help="State directory of `archelon dev`; default ARCHELON_STATE, else searched upwards.",
        )
        @click.option(
            "--as",
            "role",
            type=click.Choice(_ROLES),
            default=None if unless else usual,
            help="Role whose token to use.",
        )
        @functools.wraps(command)
        def wrapped(
            *arguments: Any,
            url: str | None,
            token_file: Path | None,
            state: Path | None,
            role: str | None,
            **options: Any,
        ) -> Any:
            found = find(
                url=url,
                token_file=token_file,
                state=state,
                role=role or next((each for name, each in unless.items() if options[name] is not None), usual),
                environ=os.environ,
                here=Path.cwd(),
            )
            return command(*arguments, connection=found, **options)

        return wrapped  # type: ignore[return-value]

    return decorate
