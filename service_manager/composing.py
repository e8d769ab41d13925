"""Orders across service managers: what an orchestrator of another service manager may do here.

It comes with a token that design gave it in exchange for its own: signed by design, for minutes, in the name of the
orchestrator's instance, its audience the type of one service. That opens the collection of this one type, to the token's tenant
alone. The orchestrator may look at the tenant's instances there, since it may be bound to one, and order, change and dispose of
the one that its own instance is composed of, which lies at a path that derives from both.
"""

from __future__ import annotations

from typing import Any, Final

from occi.core_model import Entity

from occi_service.errors import ForbiddenError
from occi_service.identity import Identity, TokenKind
from occi_service.model import type_id
from occi_service.wire import names, tokens
from occi_service.wire import service_manager as wire

from .catalogue import Catalogue
from .start_tokens import START_AUDIENCE

__all__ = ["Audiences", "check_composes", "is_exchanged", "opens"]

_OWN: Final = frozenset((tokens.AUDIENCE_SERVICE_MANAGER, START_AUDIENCE))


class Audiences:
    """Whom signed tokens that are good here may be meant for: the service manager, and each service that it serves."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def __contains__(self, audience: Any) -> bool:
        return audience == tokens.AUDIENCE_SERVICE_MANAGER or self._catalogue.serves(str(audience))


def is_exchanged(identity: Identity) -> bool:
    """Whether the token is for one service, and not for the service manager."""
    return identity.audience is not None and identity.audience not in _OWN


def opens(identity: Identity, path: str, *, reading: bool) -> bool:
    """Whether a token for one service is for what lies at a path; the query interface shows what services there are."""
    location = f"/{str(identity.audience).rpartition('#')[2]}/"
    return identity.kind is TokenKind.INSTANCE and (path.startswith(location) or (reading and path == "/-/"))


def check_composes(identity: Identity, entity: Entity) -> None:
    """Refuse an orchestrator of elsewhere whatever its instance is not composed of. Raises ForbiddenError."""
    if not is_exchanged(identity):
        return
    service_type, parent = type_id(entity.kind), identity.instance_id or ""
    regions = ("", str(entity.attributes.get(names.REGION) or ""))
    composes = entity.identifier in [wire.supplier_path(parent, service_type, region) for region in regions]
    if identity.audience != service_type or not composes:
        raise ForbiddenError(
            f"the token is for what the instance {parent} is composed of, at the path that derives from it", "path"
        )
