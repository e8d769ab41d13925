"""Code blocks of pages in Markdown, so that tests can run what people are told to type."""

from __future__ import annotations

import re


def code_blocks(text: str, language: str = "") -> list[str]:
    """Code blocks of a language, in order; the empty one for commands."""
    # All of them are found, since the end of one looks like the beginning of another.
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]
