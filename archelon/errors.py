"""What a command ends with: an exit status that scripts can tell apart, and one line for people.

Every error that a command expects becomes a `CommandError`, or is of a class that `explained` knows. What it does not know is a
mistake of ours: it gets one line too, and `archelon --debug` shows where it came from.
"""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """Exit statuses; docs/cli.md lists them."""

    DONE = 0
    #: What was asked for was tried, and did not come out.
    FAILED = 1
    #: Wrong arguments or settings.
    USAGE = 2
    #: A service does not answer, or answers with an error of its own.
    UNREACHABLE = 3
    #: No token, a wrong one, or one without the role.
    REFUSED = 4
    NOT_FOUND = 5
    #: At odds with the present state.
    CONFLICT = 6
    #: The time that was given for waiting is over; what was ordered goes on.
    TIMED_OUT = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot go on. The text is one plain line that names the remedy, and holds no secret."""

    def __init__(self, message: str, *, status: Status = Status.FAILED) -> None:
        super().__init__(message)
        self.status = status


def explained(error: Exception) -> CommandError | None:
    """An error of the rooms below as a failure; None for one that nobody expected."""
    # Imported here: most commands end well, and `--help` needs none of it.
    from archelon_core.auth import RealmError
    from archelon_core.settings import SettingsError
    from bundles import BundleError
    from occi_service import client

    if isinstance(error, CommandError):
        return error
    if isinstance(error, client.StatusError):
        return CommandError(
            _answer(error),
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


def _answer(error: object) -> str:
    from occi_service import client

    assert isinstance(error, client.StatusError)
    if error.status == 401:
        return "the token is not valid here; set ARCHELON_TOKEN, or make one with `archelon realm token issue`"
    if error.status == 403:
        return f"not allowed: {error.message}; another role may: see --as"
    place = f" ({error.where})" if error.where else ""
    return f"{error.message}{place}"


_STATUS = {
    400: Status.USAGE,
    401: Status.REFUSED,
    403: Status.REFUSED,
    404: Status.NOT_FOUND,
    409: Status.CONFLICT,
    412: Status.CONFLICT,
}
