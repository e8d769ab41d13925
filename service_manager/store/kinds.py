"""A manifest as an OCCI kind: its attributes and actions besides those that every service has."""

from __future__ import annotations

from typing import Final, cast

from occi.core_model import Action, Kind, Resource

import bundles
from archelon_api import service_manager as wire
from occi_service.attributes import Attribute, AttributeType, Use

#: Terms of locations that the service manager uses itself; `/hurtle/` is the mount of Hurtle's dialect.
RESERVED_TERMS: Final = frozenset(
    ("published", "record", "dependency", "resource", "bundle", "operator", "hurtle", "update")
) | {"healthz", "readyz", "metrics", "-"}


#: Bytes of a tenant's value, unless its pattern permits a text of more characters (`maxLength`). A variable of a process takes
#: 128 KiB.
LONGEST: Final = 64 << 10
#: Bytes of one character in UTF-8.
_MOST_BYTES: Final = 4


def kind_of(manifest: bundles.Manifest, *, withdrawn: bool = False) -> Kind:
    """Return the kind that a manifest describes, at `/<term>/`. That of a withdrawn service says so by an attribute.

    Raises:
        ValueError: a default or pattern is invalid; the text names the attribute.
    """
    attributes: dict[str, str] = {name: _attribute(name, each) for name, each in manifest.attributes.items()}
    for name, definition in wire.INSTANCE_ATTRIBUTES.items():
        attributes.setdefault(name, definition)
    if withdrawn:
        attributes[wire.WITHDRAWN] = Attribute("immutable", type="boolean", description="it takes no more orders")
    return Kind(
        manifest.scheme,
        manifest.term,
        related=[Resource.kind],
        actions=[*wire.LIFECYCLE_ACTIONS, *actions_of(manifest), wire.REPORT, wire.RENEW],
        title=manifest.title or manifest.description or manifest.term,
        attributes=attributes,
        location=wire.location_of(manifest.type),
    )


def actions_of(manifest: bundles.Manifest) -> list[Action]:
    """Return the actions that a manifest declares; their scheme derives from the service's type."""
    scheme = f"{manifest.type.replace('#', '/')}/action#"
    found = []
    for term, action in manifest.actions.items():
        attributes: dict[str, str] = {name: _attribute(name, each) for name, each in action.attributes.items()}
        found.append(Action(scheme, term, action.title or action.description or term, attributes))
    return found


def _attribute(name: str, declared: bundles.Attribute) -> Attribute:
    schema = declared.pattern.schema() if declared.pattern is not None else None
    permitted = (schema or {}).get("maxLength", 0)
    longest = max(LONGEST, _MOST_BYTES * permitted if isinstance(permitted, int) else 0)
    try:
        return Attribute(
            cast("Use", str(declared.mutability)),
            type=cast("AttributeType", str(declared.type)),
            default=declared.default,
            pattern=schema,
            description=declared.description,
            secret=declared.secret,
            longest=longest,
        )
    except ValueError as error:
        raise ValueError(f"the attribute {name}: {error}") from None
