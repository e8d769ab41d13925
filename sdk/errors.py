"""Exceptions that an orchestrator's author may raise and catch.

A phase that raises ends as `fail`, and the instance shows the text. The text of a `Failure` is written for tenants; any other
exception works too: its class and text are shown, and its traceback is written to the instance's log.
"""

from __future__ import annotations


class Failure(Exception):  # noqa: N818 - authors raise sdk.Failure("why")
    """A phase cannot succeed. The tenant sees the text as it is: the fault, and its remedy.

    Args:
        text: for the tenant.
        permanent: whether the same order would fail again; the phase is then not retried.
    """

    def __init__(self, text: str = "", *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


class StackFailure(Failure):
    """A stack has failed; the text has the platform's reason."""


class SupplierFailure(Failure):
    """An instance of another service that this one needs has failed, or is unavailable."""


class Cancelled(BaseException):
    """A newer order has arrived, and the running work must end.

    It is not an `Exception`, so that an author's `except Exception` lets it pass. The newer order continues or removes what was
    begun.
    """


def describe(error: BaseException) -> str:
    """Return the text that the instance shows: an author's own, or the class and the text."""
    text = " ".join(str(error).split())
    if isinstance(error, Failure) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
