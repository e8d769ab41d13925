"""The forms of Archelon's names, and the attributes of every object of an instance."""

from __future__ import annotations

import uuid
from typing import Final

from occi_service.attributes import Attribute, whole_number

SCHEME_PREFIX: Final = "http://schemas.archelon.org/occi/"
ATTRIBUTE_PREFIX: Final = "org.archelon."

#: Namespace of ids derived from names (RFC 9562, 5.5), distinct from all others.
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, SCHEME_PREFIX)


def scheme(module: str) -> str:
    """Return the scheme of a module's kinds: `http://schemas.archelon.org/occi/<module>#`."""
    return f"{SCHEME_PREFIX}{module}#"


def attribute(name: str) -> str:
    """Return the full name of one of Archelon's attributes."""
    return ATTRIBUTE_PREFIX + name


def derived_id(*parts: str) -> uuid.UUID:
    """Return the id that a caller derives for an object that it PUTs, so that repeating the PUT finds the same object.

    Args:
        parts: for example an instance's id, a stack's name and its region. Their order matters; none may contain NUL.
    """
    return uuid.uuid5(_NAMESPACE, "\0".join(parts))


INSTANCE: Final = attribute("instance")
TENANT: Final = attribute("tenant")
SERVICE: Final = attribute("service")
GENERATION: Final = attribute("generation")
REGION: Final = attribute("region")

#: The labels of every object of an instance, on every platform. A write with a generation older than the stored one is a 409.
LABELS: Final = {
    INSTANCE: Attribute(
        "required", pattern="[!-~]{1,64}", description="id of the instance that this belongs to (a UUID)"
    ),
    SERVICE: Attribute("", pattern="[!-~]{0,512}", description="type identifier of the instance's service"),
    GENERATION: Attribute(
        "", type="number", pattern=whole_number(), default=0, description="how often the order has been changed"
    ),
}
