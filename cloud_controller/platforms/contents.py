"""Environment, files and substituted values that nodes of all resource types have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundles.infrastructure.rendering import Scalar, Value, substitute

from ..infrastructure.resources import NodeError, WantedNode


def text_of(value: Value) -> str:
    """Return a value as text, in the syntax of documents."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def pairs_of(value: Any) -> dict[str, str]:
    """Return names and texts, from a mapping or from Occopus' list of `NAME=value`."""
    if isinstance(value, list):
        return dict(str(entry).partition("=")[::2] for entry in value)
    return {name: text_of(entry) for name, entry in (value or {}).items()}


def filled(wanted: WantedNode, attributes: Mapping[str, Scalar]) -> dict[str, dict[str, Any]]:
    """Return a node's properties with every reference replaced; `self.…` from its own attributes. Raises NodeError."""
    missing: list[str] = []

    def find(reference: str) -> Scalar:
        space, _, rest = reference.partition(".")
        value = attributes.get(rest) if space == "self" else wanted.values.get(reference)
        if value is None:
            missing.append(reference)
        return value

    properties = {name: substitute(value, find) for name, value in wanted.properties.items()}
    if missing:
        raise NodeError(f"{wanted.key} has no {', '.join(sorted(set(missing)))}; does it list its ports?")
    return properties  # type: ignore[return-value]
