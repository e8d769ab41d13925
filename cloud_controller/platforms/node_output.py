"""The output of nodes: what a resource type provides to show it, and its last lines for the message of a failure.

A node's program may be anybody's, so its output is bytes of unknown content: the message gets it on one line, without control
characters, and without the secrets that are known of its stack.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, runtime_checkable

from archelon_core.control_characters import escaped
from archelon_core.redaction import SHORTEST, Redactor

from .interface import Log

#: Bytes of output that are read for a message. It shows fewer, but a secret has to be read whole to be found.
TAIL: Final = 32 << 10
_LINES: Final = 5
_CHARACTERS: Final = 500
#: Values to hide, and lines of them: each is looked for in ten spellings.
_MOST_SECRETS: Final = 1000


@runtime_checkable
class ShowsOutput(Protocol):
    """A resource type that can read its nodes' output; the methods are optional for a type."""

    def read_log(self, stack: str, key: str, since: int = 0) -> Log | None:
        """Return output from position `since` on; None if there is no such node."""

    def read_tail(self, stack: str, key: str, limit: int) -> bytes:
        """Return about the last `limit` bytes of output; empty if there is none."""


def last_lines(output: bytes, secrets: Iterable[str] = ()) -> str:
    """Return the last lines, at most 5 and 500 characters, joined to one: `a | b`.

    Args:
        output: the end of a node's output.
        secrets: values to hide, also line by line.
    """
    text = output.decode(errors="replace").replace("\r\n", "\n")
    if len(output) >= TAIL:
        # The first line is incomplete, so a secret in it may be too.
        text = text.partition("\n")[2]
    hidden = {part for secret in secrets for part in (secret, *secret.splitlines()) if len(part) >= SHORTEST}
    if len(hidden) > _MOST_SECRETS:
        return "(not shown: the secrets of its stack have too many lines to look for)"
    lines = [escaped(line.strip()) for line in Redactor(hidden).text(text).split("\n")]
    joined = " | ".join([line for line in lines if line][-_LINES:])
    return joined if len(joined) <= _CHARACTERS else f"…{joined[1 - _CHARACTERS :]}"


def with_output(message: str, output: bytes, secrets: Iterable[str] = ()) -> str:
    """Return a message that ends with the last lines of output, if there are any."""
    lines = last_lines(output, secrets)
    return f"{message or 'it ended'}; its last output: {lines}" if lines else message
