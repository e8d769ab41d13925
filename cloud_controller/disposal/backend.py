"""The disposal module: one entity per instance to be removed, with the audit of what was removed."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Entity

from archelon_api import disposal
from occi_service.server.app import Application

from ..core.module import Module
from ..core.resource_backend import OwnedBackend, RequestContext
from ..core.resources import Object, Objects

TOPIC: Final = "disposal.instance"


class DisposalBackend(OwnedBackend):
    """Accepts the order to dispose of an instance. Repeating it checks again."""

    topic = TOPIC

    def path(self, entity: Entity) -> str:
        return disposal.disposal_path(self.instance(entity))

    def _is_disposed_of(self, connection: sa.Connection, instance: str) -> bool:
        return False

    def ordered(self, entity: Entity, present: Object, request: RequestContext) -> None:
        entity.attributes[disposal.DISPOSAL_STATE] = "running"

    def reordered(
        self, old: Entity, new: dict[str, Any], *, present: Object, request: RequestContext
    ) -> dict[str, Any]:
        # Checking again finds what was created since a former disposal.
        new[disposal.DISPOSAL_STATE] = "running"
        new.pop(disposal.DISPOSAL_MESSAGE, None)
        return new


class DisposalModule(Module):
    """Disposals."""

    name = "disposal"

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def register(self, application: Application) -> None:
        """Publish the kind."""
        application.register_backend(disposal.DISPOSAL, DisposalBackend(self._objects))
