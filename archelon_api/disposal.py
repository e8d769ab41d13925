"""Disposal: removes everything that carries an instance's label, and proves that nothing is left."""

from __future__ import annotations

from typing import Final

from occi.core_model import Kind, Resource

from occi_service.attributes import Attribute

from .names import LABELS, attribute, scheme

SCHEME: Final = scheme("disposal")

DISPOSAL_STATE: Final = attribute("disposal.state")
DISPOSAL_MESSAGE: Final = attribute("disposal.message")
DISPOSAL_AUDIT: Final = attribute("disposal.audit")

DISPOSAL: Final = Kind(
    SCHEME,
    "disposal",
    related=[Resource.kind],
    title="Disposal of an instance",
    attributes={
        **LABELS,
        DISPOSAL_STATE: Attribute("immutable", pattern="running|done|failed"),
        DISPOSAL_MESSAGE: Attribute("immutable", description="what prevents the removal, in plain language"),
        DISPOSAL_AUDIT: Attribute(
            "immutable",
            type="array",
            description="objects of object, platform, removed (time), absence verified (time)",
        ),
    },
    location="/disposal/",
)


def disposal_path(instance: str) -> str:
    """Return the path of an instance's disposal."""
    return f"{DISPOSAL.location}{instance}"
