"""Code blocks of Markdown pages, so that tests can run documented commands."""

from __future__ import annotations

import re


def code_blocks(text: str, language: str = "") -> list[str]:
    """Return the code blocks of a language, in order; commands have an empty language."""
    # Match all blocks, because the end of one resembles the beginning of another.
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]
