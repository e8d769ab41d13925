"""Moves an instance to another bundle of its service: by a roll, or by the retry of a failed instance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from occi.core_model import Entity

import bundles
from archelon_api import names
from archelon_api import service_manager as wire
from occi_service.attributes import as_attribute, check

from ..store.instances import Instance, show_state
from ..store.kinds import kind_of
from .history import History


class MisfitError(ValueError):
    """A manifest does not accept an instance's attributes; the text names the attribute, and contains no value."""

    def __init__(self, message: str, attribute: str) -> None:
        super().__init__(message)
        self.attribute = attribute


def missing_defaults(manifest: bundles.Manifest, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that an instance lacks and that the manifest gives a default, as a new order would get them.

    An attribute that the manifest no longer declares is no misfit: every instance has those that had a default.

    Raises:
        MisfitError: a required attribute is missing, a value does not fit, or the service is not deployed to the region.
    """
    region = attributes.get(names.REGION)
    if region is not None and manifest.resources and region not in manifest.resources:
        known = ", ".join(sorted(manifest.resources))
        raise MisfitError(f"it is not deployed to the region of the instance, only to {known}", names.REGION)
    added: dict[str, Any] = {}
    for name, text in kind_of(manifest).attributes.items():
        definition = as_attribute(text)
        if definition.immutable or name in wire.INSTANCE_ATTRIBUTES:
            continue
        value = attributes.get(name)
        if value is not None:
            try:
                check(name, value, definition)
            except ValueError as error:
                raise MisfitError(str(error), name) from None
        elif definition.default is not None:
            added[name] = json.loads(json.dumps(definition.default))
        elif definition.required:
            raise MisfitError(f"{name} is required", name)
    return added


def restart(
    history: History,
    connection: sa.Connection,
    instance: Instance,
    entity: Entity,
    *,
    digest: str,
    manifest: bundles.Manifest,
    now: float,
) -> dict[str, Any]:
    """Restart the failed phase of an instance with another bundle. Returns the columns to set; changes its entity.

    After a failed `provision` it begins with `deploy`, since another bundle may have other stacks.

    Args:
        digest: of the bundle; `manifest` is its manifest.
        now: seconds since the epoch.
    """
    seen = instance.snapshot
    generation = seen.generation + 1
    failed = "deploy" if seen.failed == "provision" else seen.failed
    moved = dataclasses.replace(seen, digest=digest, generation=generation, failed=failed)
    columns = history.resume(connection, dataclasses.replace(instance, snapshot=moved), generation, now)
    entity.attributes[wire.BUNDLE_VERSION] = manifest.version or digest[:12]
    entity.attributes[names.GENERATION] = generation
    show_state(entity, str(columns["state"]))
    return {"digest": digest, "generation": generation} | columns
