"""What an orchestrator's author can raise and catch.

A phase that raises ends as `fail`, and the instance shows the text. `Failure` is for texts that are written for a tenant; any
other exception works too: its class and text are shown, and its traceback goes to the instance's log.
"""

from __future__ import annotations


class Failure(Exception):  # noqa: N818 - authors raise sdk.Failure("why")
    """A phase cannot succeed. The text is shown to the tenant as it is: what is wrong, and what to do."""


class StackFailure(Failure):
    """A stack came to a failed state; the text has the platform's reason."""


class SupplierFailure(Failure):
    """An instance of another service that this one needs has failed, or cannot be had."""


class Cancelled(BaseException):
    """A newer order has come, and what runs is to end where it stands.

    Not an `Exception`, so that an author's `except Exception` lets it pass. What was begun is taken up, or down, by the newer
    order.
    """


def in_words(error: BaseException) -> str:
    """An exception as the instance shows it: an author's own text, or the class and the text."""
    text = " ".join(str(error).split())
    if isinstance(error, Failure) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
