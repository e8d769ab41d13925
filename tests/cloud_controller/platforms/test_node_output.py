"""The last lines of a node's output, as a message contains them."""

from __future__ import annotations

import pytest

from cloud_controller.platforms.node_output import TAIL, last_lines, with_output

KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n"


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (b"", ""),
        (b"one\r\n\n  two\n", "one | two"),
        (b"".join([b"%d\n" % number for number in range(9)]), "4 | 5 | 6 | 7 | 8"),
        (b"\x1b]0;title\x07\x9b2J\xff \xe2\x80\xaemoc\n", r"\x1b]0;title\x07" + "\ufffd2J\ufffd " + r"\u202emoc"),
        (b"x" * 600, "…" + "x" * 499),
        # A value in parts, and in another spelling.
        (KEY.encode(), "[hidden]"),
        (b"MIIEvQIBADANBg\ntoken=a%2Fb%2Fc", "[hidden] | token=[hidden]"),
        # The incomplete first line of what was read.
        (b"tail of a value\n" + b"y\n" * TAIL, "y | y | y | y | y"),
    ],
)
def test_last_lines(output: bytes, shown: str) -> None:
    assert last_lines(output, [KEY, "a/b/c", "y", ""]) == shown


def test_a_message_without_output_is_unchanged() -> None:
    assert with_output("exited with status 1", b"\n") == "exited with status 1"
    assert with_output("", b"why") == "it ended; its last output: why"


def test_output_is_not_shown_where_looking_for_secrets_would_take_long() -> None:
    secret = "\n".join([f"line {number}" for number in range(100_000)])
    assert with_output("killed", b"line 7", [secret]).startswith("killed; its last output: (not shown")
