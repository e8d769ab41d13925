"""What tests found out that people want to read, such as who was killed and how long it took: shown after the last test.

Printing is no way there: pytest shows what a test printed only if it failed, and several processes may run the tests.
"""

from __future__ import annotations


class Tables:
    """The texts, in the order in which they came; the fixture `tables` gives it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        """Show this text, of one line or several."""
        self.texts.append(text.strip("\n"))
