"""Provision: configures deployed resources."""

from __future__ import annotations

from typing import Final

from occi.core_model import Kind, Resource

from occi_service.attributes import Attribute

from .names import LABELS, attribute, derived_id, scheme

SCHEME: Final = scheme("provision")

CONFIGURATION_STACK: Final = attribute("configuration.stack")
CONFIGURATION_NODE: Final = attribute("configuration.node")
CONFIGURATION_NAME: Final = attribute("configuration.name")
CONFIGURATION_KIND: Final = attribute("configuration.kind")
CONFIGURATION_CONTENT: Final = attribute("configuration.content")
CONFIGURATION_STATE: Final = attribute("configuration.state")
CONFIGURATION_RESULT: Final = attribute("configuration.result")
CONFIGURATION_ATTEMPT: Final = attribute("configuration.attempt")

CONFIGURATION: Final = Kind(
    SCHEME,
    "configuration",
    related=[Resource.kind],
    title="Configuration of a node",
    attributes={
        **LABELS,
        CONFIGURATION_STACK: Attribute("required", description="path of the stack"),
        CONFIGURATION_NODE: Attribute("required", description="name of the node in the stack's template"),
        CONFIGURATION_NAME: Attribute(
            "required", description="chosen by the instance; the configuration's path derives from it"
        ),
        CONFIGURATION_KIND: Attribute("required", pattern="cloud-init|ssh|software-config|process"),
        CONFIGURATION_CONTENT: Attribute("required", type="object", secret=True),
        CONFIGURATION_STATE: Attribute("immutable", pattern="waiting|running|done|failed"),
        CONFIGURATION_RESULT: Attribute("immutable", description="its output, or why it failed"),
        CONFIGURATION_ATTEMPT: Attribute("immutable", type="number", description="how often it was ordered"),
    },
    location="/configuration/",
)


def configuration_path(stack: str, node: str, name: str) -> str:
    """Return the path of a configuration; `stack` is the stack's path."""
    return f"{CONFIGURATION.location}{derived_id(stack, node, name)}"
