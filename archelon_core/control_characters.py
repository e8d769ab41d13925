"""Escapes what could control a terminal or rearrange a line in text of unknown origin."""

from __future__ import annotations

import re
from typing import Final

#: C0, DEL and C1 controls, separators of lines and paragraphs, and Unicode's controls of text direction.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str, *, kept: str = "") -> str:
    r"""Return the text with each control character as its escape, such as `\x1b`; those in `kept` stay."""
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] in kept else found[0].encode("unicode_escape").decode("ascii"), text
    )
