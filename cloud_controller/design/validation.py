"""Validation of manifests and templates: every problem, with its place and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import bundles
from bundles.infrastructure.rendering import DescriptionError

from ..infrastructure.apart import check_description, manifest_problems
from ..infrastructure.resources import ResourceType

#: The format of manifests; the others are template formats.
MANIFEST: Final = "manifest"
_INFRASTRUCTURE: Final = "infrastructure"


def validate(
    document_format: str, content: str, *, name: str, platforms: Mapping[str, Any]
) -> Sequence[bundles.Problem]:
    """Return the problems of a document, which is a manifest (format `manifest`) or a template.

    `name` is its file name, for messages. Descriptions may use the node types of all `platforms`.
    """
    if document_format == MANIFEST:
        return manifest_problems(content, name=name)
    if document_format == _INFRASTRUCTURE:
        types: dict[str, ResourceType] = {}
        for platform in platforms.values():
            types.update(getattr(platform, "node_types", {}))
        try:
            check_description(content, files={}, types=types, name=name)
        except DescriptionError as error:
            place = error.place
            return (bundles.Problem(name, place.line, place.column, "", error.problem, error.remedy),)
        return ()
    formats = f"{MANIFEST}, {_INFRASTRUCTURE}"
    return (bundles.Problem(name, 0, 0, "", f"unknown format {document_format[:60]!r}", f"use one of {formats}"),)
