"""Tables for people, such as killed processes and recovery times, which are printed after the last test.

Tests cannot print them: pytest shows the output of failed tests only, and several processes may run the tests.
"""

from __future__ import annotations


class Tables:
    """The texts in order; the fixture `tables` provides it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        """Show this text, of one line or several."""
        self.texts.append(text.strip("\n"))
