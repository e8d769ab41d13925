"""Errors of commands: an exit status for scripts, and a one-line message for people.

Expected errors are `CommandError`s, or are converted by `as_command_error`. Any other exception is a bug: it is printed on one
line too, and `archelon --debug` prints its traceback.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from occi_service import client


class Status(enum.IntEnum):
    """Exit statuses; docs/cli.md lists them."""

    DONE = 0
    #: The operation failed.
    FAILED = 1
    #: Wrong arguments or settings.
    USAGE = 2
    #: A service does not respond, or reports an internal error.
    UNREACHABLE = 3
    #: The token is missing, invalid or without the role.
    REFUSED = 4
    NOT_FOUND = 5
    #: The operation conflicts with the current state.
    CONFLICT = 6
    #: The wait ended early, by its timeout or the token's expiry; the operation continues.
    TIMED_OUT = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot continue. The message is one line that names the remedy and contains no secret."""

    def __init__(self, message: str, *, status: Status = Status.FAILED) -> None:
        super().__init__(message)
        self.status = status


def as_command_error(error: Exception) -> CommandError | None:
    """Convert an error of the packages below to a CommandError; None if it is unexpected."""
    if isinstance(error, CommandError):
        return error
    # Imported lazily: most commands succeed, and `--help` needs none of it.
    from archelon_core.auth import RealmError
    from archelon_core.settings import SettingsError
    from bundles import BundleError
    from occi_service import client

    if isinstance(error, client.StatusError):
        return CommandError(
            _status_message(error),
            status=_STATUS.get(error.status, Status.FAILED if error.status < 500 else Status.UNREACHABLE),
        )
    if isinstance(error, client.TransportError):
        return CommandError(f"{error}; is it running? `archelon dev` starts one here", status=Status.UNREACHABLE)
    if isinstance(error, client.UnknownCategoryError):
        return CommandError(str(error), status=Status.NOT_FOUND)
    if isinstance(error, client.ClientError):
        return CommandError(str(error), status=Status.UNREACHABLE)
    if isinstance(error, SettingsError):
        return CommandError(str(error), status=Status.USAGE)
    if isinstance(error, RealmError | BundleError):
        return CommandError(str(error))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return CommandError(f"{where}{error.strerror or error}")
    return None


def _status_message(error: client.StatusError) -> str:
    if error.status == 401:
        return "the token is not valid here; set ARCHELON_TOKEN, or issue one with `archelon realm token issue`"
    if error.status == 403:
        return f"not allowed: {error.message.rstrip('.')}; use another role with --as"
    return f"{error.message} ({error.where})" if error.where else error.message


_STATUS = {
    400: Status.USAGE,
    401: Status.REFUSED,
    403: Status.REFUSED,
    404: Status.NOT_FOUND,
    409: Status.CONFLICT,
    412: Status.CONFLICT,
}
