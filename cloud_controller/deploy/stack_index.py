"""The stack index of a region, for its platform: read from the rows of all workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from archelon_core.database import Database

from ..core.labels import Labels
from ..core.resources import labels_of
from ..core.tables import INSTALLATION, objects
from ..platforms.interface import KnownStack
from .stacks import TOPIC


class RegionStackIndex:
    """The stacks of one region."""

    def __init__(self, database: Database, region: str) -> None:
        self._database = database
        self._region = region

    def moving(self) -> Sequence[KnownStack]:
        """Return the stacks whose platform set `moving` in their record."""
        # Filter by text first, so that the many rows at rest are not even read.
        return [each for each in self._read(objects.c.kept.contains('"moving": true')) if each.record.get("moving")]

    def all(self) -> Sequence[KnownStack]:
        """Return every stack."""
        return self._read(sa.true())

    def labels(self, instance: str) -> Labels | None:
        """Return the labels of any object of an instance, in any region."""
        wanted = (objects.c.instance, objects.c.tenant, objects.c.service, objects.c.generation, INSTALLATION)
        with self._database.read() as connection:
            row = connection.execute(sa.select(*wanted).where(objects.c.instance == instance).limit(1)).one_or_none()
        return None if row is None else labels_of(row)

    def _read(self, which: sa.ColumnElement[bool]) -> list[KnownStack]:
        mine = sa.and_(objects.c.topic == TOPIC, objects.c.region == self._region, which)
        with self._database.read() as connection:
            return [_known(row) for row in connection.execute(sa.select(objects, INSTALLATION).where(mine))]


def _known(row: Any) -> KnownStack:
    return KnownStack(row.path.rpartition("/")[2], labels_of(row), json.loads(row.kept).get("record") or {})
