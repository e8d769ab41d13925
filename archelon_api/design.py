"""Design: the catalogue (the locations of services) and delegations (the right to act for a tenant)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from occi.core_model import Action, Kind, Resource

from occi_service.attributes import Attribute

from .names import SCHEME_PREFIX, attribute, derived_id, scheme

SCHEME: Final = scheme("design")

SERVICE_TYPE: Final = attribute("service.type")
ENDPOINT: Final = attribute("service.endpoint")
SERVICE_REGION: Final = attribute("service.region")
INTERFACE: Final = attribute("service.interface")
DELEGATES: Final = attribute("service.delegates")
ORIGIN: Final = attribute("service.origin")
ISSUER: Final = attribute("service.issuer")
PUBLISHER: Final = attribute("service.publisher")
#: The value of INTERFACE of an endpoint for Hurtle's clients, which speaks pyssf's dialect.
HURTLE: Final = "hurtle"
#: Values of ORIGIN.
INSTALLATION: Final = "installation"
IDENTITY: Final = "identity"
OPERATOR: Final = "operator"

SERVICE: Final = Kind(
    SCHEME,
    "service",
    related=[Resource.kind],
    title="Service in the catalogue",
    attributes={
        SERVICE_TYPE: Attribute("required", description="type identifier of a service, or the scheme of a module"),
        ENDPOINT: Attribute("required", description="URL that clients use"),
        SERVICE_REGION: Attribute("required", description="region that the endpoint serves"),
        INTERFACE: Attribute(
            "",
            pattern=f"public|internal|admin|{HURTLE}",
            default="public",
            description=f"its users; {HURTLE} is for Hurtle's clients, and is what Keystone's catalogue then has",
        ),
        DELEGATES: Attribute(
            "immutable",
            type="boolean",
            description="of deploy: the region is called in tenants' names, with a delegation",
        ),
        ORIGIN: Attribute(
            "immutable",
            pattern=f"{INSTALLATION}|{IDENTITY}|{OPERATOR}",
            description="origin of an entry of no service manager or provider: the cloud controller itself at its start, the "
            "comparison with the identity service's catalogue, or an operator",
        ),
        ISSUER: Attribute("immutable", description="issuer of the service manager's token that entered it"),
        PUBLISHER: Attribute("immutable", description="id of the tenant that published the type"),
    },
    location="/service/",
)

DELEGATION_STATE: Final = attribute("delegation.state")
DELEGATION_PARENT: Final = attribute("delegation.parent")
DELEGATION_REASON: Final = attribute("delegation.reason")
#: Response of `exchange`: shown once, and not stored.
DELEGATION_TOKEN: Final = attribute("delegation.token")
DELEGATION_EXPIRES: Final = attribute("delegation.expires")
EXCHANGE_AUDIENCE: Final = attribute("delegation.audience")
#: The tenant's own token, used once to create the delegation, and not stored.
SUBJECT_TOKEN_HEADER: Final = "X-Subject-Token"  # noqa: S105 - a name

EXCHANGE: Final = Action(
    SCHEME,
    "exchange",
    "Get a short-lived token for another service manager or, for the cloud controller itself, for a platform",
    {
        EXCHANGE_AUDIENCE: Attribute(
            "required", description="type identifier of the service to order, or platform:<region>"
        )
    },
)
ADOPT: Final = Action(
    SCHEME,
    "adopt",
    "Continue for a tenant whose user is gone, with an operator's own token for its project in X-Subject-Token",
)

DELEGATION: Final = Kind(
    SCHEME,
    "delegation",
    related=[Resource.kind],
    actions=[EXCHANGE, ADOPT],
    title="Right to act for a tenant",
    attributes={
        DELEGATION_STATE: Attribute("immutable", pattern="active|revoked|lost"),
        DELEGATION_REASON: Attribute("immutable", description="why it is lost"),
        DELEGATION_EXPIRES: Attribute(
            "immutable", type="number", description="expiry of the token, in seconds since 1970"
        ),
        DELEGATION_TOKEN: Attribute("immutable", secret=True),
        DELEGATION_PARENT: Attribute("", description="instance whose delegation this one derives from"),
    },
    location="/delegation/",
)

VALIDATE: Final = Action(
    SCHEME,
    "validate",
    "List everything that is wrong with a document",
    {
        attribute("document.format"): Attribute("required", description="manifest, or a template format"),
        attribute("document.content"): Attribute("required", description="the document as text"),
        attribute("document.name"): Attribute("", description="its file name, for error texts"),
    },
)
VALIDATION: Final = Kind(
    SCHEME,
    "validation",
    related=[Resource.kind],
    actions=[VALIDATE],
    title="Validation of manifests and templates",
    attributes={attribute("validation.problems"): Attribute("immutable", type="array")},
    location="/validation/",
)


#: The scheme of the services that come with Archelon, which providers publish like their own.
_PUBLISHED_SCHEME: Final = scheme("service")
_PUBLISHED: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s#]+#[^\s#]+")


def is_ours(service_type: str) -> bool:
    """Return whether a type belongs to Archelon's own modules, which receive tokens for the cloud controller."""
    return service_type.startswith(SCHEME_PREFIX) and not service_type.startswith(_PUBLISHED_SCHEME)


def is_reserved(service_type: str) -> bool:
    """Return whether no token may enter a type: one of Archelon's modules, or one that is not the kind of a published service.

    The latter are Keystone's names of services (`identity`, `compute`, `orchestration`, …), and schemes without a term.
    """
    return is_ours(service_type) or _PUBLISHED.fullmatch(service_type) is None


def is_trusted(attributes: Mapping[str, Any]) -> bool:
    """Return whether a catalogue entry may be sent a token for its type.

    For Archelon's own modules these are the entries that the installation made at its start, for other reserved types those
    from the identity service's catalogue. Types that are not reserved are checked when the entry is written.
    """
    service_type, origin = str(attributes.get(SERVICE_TYPE, "")), attributes.get(ORIGIN)
    if is_ours(service_type):
        return bool(origin == INSTALLATION)
    return bool(origin == IDENTITY) or not is_reserved(service_type)


def service_path(service_type: str, region: str, interface: str = "public") -> str:
    """Return the path of a catalogue entry."""
    return f"{SERVICE.location}{derived_id(service_type, region, interface)}"


def delegation_path(instance: str) -> str:
    """Return the path of an instance's delegation."""
    return f"{DELEGATION.location}{instance}"


def platform_audience(region: str) -> str:
    """Return the audience of a token for the platform of a region."""
    return f"platform:{region}"
