"""What the disposal module needs of a platform: everything that carries an instance's label, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = ["Holdings", "HoldingsError"]


class HoldingsError(Exception):
    """Something cannot be removed; the text says what is in the way, and holds no secret."""


class Holdings(Protocol):
    """What a platform has, by the labels that every object made on it carries."""

    def instances(self, installation: str) -> Mapping[str, float]:
        """Every instance that something of an installation carries the label of, with its youngest object's age in seconds."""

    def objects(self, instance: str) -> Sequence[str]:
        """What there is of an instance, each by a name that stays the same from look to look.

        Raises:
            HoldingsError: nobody can tell; the text says why.
        """

    def remove(self, instance: str) -> bool:
        """Take all of it away, what needs others first. True when it is gone; False: ask again.

        Raises:
            HoldingsError: something is in the way; the text says what.
        """

    def remains(self, instance: str) -> Sequence[str]:
        """What is left, in words; empty: verified absent. Raises HoldingsError where nobody can tell."""
