"""Bundles by digest: stored in the database, where every replica finds them, and unpacked where they run.

A bundle is transferred as the archive itself, at a route outside OCCI; its existence is an OCCI entity. Its name is the SHA-256
of its bytes, so a PUT can be repeated, and no one can replace it with another.

It belongs to each tenant or service manager that uploaded it. Each has an entity of its own at the bundle's path; to others the
bundle does not exist, whether or not the archive is stored. An instance may read the bundle that it runs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import falcon
import falcon.routing
import sqlalchemy as sa
from occi.backend import KindBackend
from occi.core_model import Entity, Resource

import bundles as archives
from archelon_api import deploy
from archelon_core.auth import Identity, rules
from archelon_core.auth.rules import Scope
from archelon_core.database import Database, insert_into
from archelon_core.errors import BadRequestError, ForbiddenError, NotFoundError, UnsupportedMediaTypeError
from archelon_core.private_files import private_directory
from occi_service.model import type_id
from occi_service.registry.base import Registry
from occi_service.registry.tables import entities, fact, facts
from occi_service.server.request_input import read_body

from ..core import access
from ..core.module import extras_of
from ..core.tables import bundles

Found = TypeVar("Found")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Bundles:
    """The bundles of one cloud controller, in the caller's transaction."""

    def has(self, connection: sa.Connection, digest: str) -> bool:
        """Return whether a bundle is stored."""
        return connection.scalar(sa.select(bundles.c.digest).where(bundles.c.digest == digest)) is not None

    def hold(self, connection: sa.Connection, digest: str, *, owner: str | None = None, alone: bool = False) -> bool:
        """Return whether a bundle is stored, and lock it until the end of the transaction, exclusively if `alone`.

        `owner` is its required owner; None accepts any.
        """
        found = sa.select(bundles.c.digest).where(bundles.c.digest == digest).with_for_update(read=not alone)
        if connection.scalar(found) is None:
            return False
        own = sa.select(entities.c.sequence).where(
            entities.c.owner == owner, entities.c.identifier == deploy.bundle_path(digest)
        )
        return owner is None or connection.scalar(own) is not None

    def has_owner(self, connection: sa.Connection, digest: str) -> bool:
        """Return whether a bundle has any owner."""
        # Join from the few entities that are bundles: no index covers all owners' entities of one path.
        kind = fact("kind", type_id(deploy.BUNDLE))
        there = (
            sa.select(entities.c.sequence)
            .join(facts, facts.c.sequence == entities.c.sequence)
            .where(facts.c.name == kind.name, facts.c.value == kind.value)
            .where(entities.c.identifier == deploy.bundle_path(digest))
        )
        return connection.scalar(there.limit(1)) is not None

    def remove(self, connection: sa.Connection, digest: str) -> None:
        """Delete one."""
        connection.execute(sa.delete(bundles).where(bundles.c.digest == digest))

    def add(self, connection: sa.Connection, digest: str, archive: bytes) -> bool:
        """Store one. Returns False if it is stored already, perhaps by a concurrent request."""
        new = (
            insert_into(bundles, connection.dialect.name)
            .values(digest=digest, archive=archive)
            .on_conflict_do_nothing()
        )
        return connection.scalar(new.returning(bundles.c.digest)) is not None

    def archive(self, connection: sa.Connection, digest: str) -> bytes | None:
        """Return the bytes of one."""
        return connection.scalar(sa.select(bundles.c.archive).where(bundles.c.digest == digest))


class Unpacked:
    """Bundles unpacked into directories of this machine, each when it is first needed. `directory` is created if missing."""

    def __init__(self, directory: Path, database: Database) -> None:
        self._directory = directory
        self._database = database
        private_directory(directory)

    def path(self, digest: str) -> Path:
        """Return the directory of a bundle. Raises LookupError for an unknown digest."""
        target = self._directory / digest
        return target if target.is_dir() else archives.unpack(self.archive(digest), target, digest=digest)

    def archive(self, digest: str) -> bytes:
        """Return the bundle as it was uploaded. Raises LookupError for an unknown digest."""
        with self._database.read() as connection:
            archive = Bundles().archive(connection, digest)
        if archive is None:
            raise LookupError(f"the bundle {digest} is not stored here")
        return archive

    def remove_unknown(self) -> None:
        """Remove the directories of bundles that are no longer in the database."""
        there = [each for each in self._directory.iterdir() if _DIGEST.fullmatch(each.name)]
        for directory in there:
            with self._database.read() as connection:
                known = Bundles().has(connection, directory.name)
            if not known:
                # Rename it first, so that no process finds half of it, and a bundle that is uploaded again is unpacked again.
                leaving = self._directory / f".leaving-{directory.name}"
                directory.rename(leaving)
        for left in self._directory.glob(".leaving-*"):
            shutil.rmtree(left)

    def sweep(self, *, before: float) -> int:
        """Remove unfinished unpackings of killed processes, older than `before` (seconds since the epoch)."""
        return archives.sweep_unfinished(self._directory, before=before)


class BundleBackend(KindBackend):
    """The kind of bundles; only the route creates them."""

    def create(self, entity: Entity, extras: Any) -> None:
        raise BadRequestError(f"PUT the archive itself, as {deploy.BUNDLE_MEDIA_TYPE}, at /bundle/<sha256>", "body")

    def delete(self, entity: Entity, extras: Any) -> None:
        raise ForbiddenError("bundles cannot be deleted: instances may run them", "method")


class DigestConverter(falcon.routing.BaseConverter):
    """Matches only paths that end in a digest; OCCI serves the others."""

    def convert(self, value: str) -> str | None:
        return value if _DIGEST.fullmatch(value) else None


class BundleRoute:
    """The route `/bundle/<sha256>`."""

    def __init__(
        self, registry: Registry, held: Bundles, *, database: Database, limits: archives.ArchiveLimits
    ) -> None:
        self._registry = registry
        self._database = database
        self._bundles = held
        self._limits = limits

    def on_put(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Store an archive for the caller: 201 the first time, 200 afterwards."""
        extras = extras_of(req.env)
        access.check_publishes(extras["caller"], "publishing a bundle")
        media_type = (req.content_type or "").partition(";")[0].strip().lower()
        if media_type != deploy.BUNDLE_MEDIA_TYPE:
            raise UnsupportedMediaTypeError(f"a bundle is sent as {deploy.BUNDLE_MEDIA_TYPE}", "header Content-Type")
        archive = read_body(req, self._limits.packed)
        if not archive:
            raise BadRequestError("the request has no archive", "body")
        try:
            archives.read_archive(archive, digest=digest, limits=self._limits)
        except archives.BundleError as error:
            raise BadRequestError(str(error), "body") from error
        with self._registry.unit_of_work(extras):
            if self._wanted(digest, extras):
                resp.status = falcon.HTTP_200
                return
            connection = extras["connection"]
            if not self._bundles.hold(connection, digest):
                self._bundles.add(connection, digest, archive)
            path = deploy.bundle_path(digest)
            entity = Resource(path, deploy.BUNDLE, [])
            entity.attributes = {deploy.BUNDLE_SIZE: len(archive)}
            self._registry.add_resource(path, entity, extras)
        resp.status = falcon.HTTP_201
        resp.set_header("Location", req.uri)

    def on_get(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Return the archive to its owners, the instances that run it, and operators."""
        self._asked_for(req, digest, self._bundles.hold)
        # Read the large archive after the transaction. The request marked the bundle as used, so it stays.
        with self._database.read() as connection:
            archive = self._bundles.archive(connection, digest)
        assert archive is not None
        resp.content_type = deploy.BUNDLE_MEDIA_TYPE
        resp.set_header("ETag", f'"{digest}"')
        resp.data = archive

    def on_head(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Return whether it is stored, without the archive."""
        self._asked_for(req, digest, self._bundles.hold)
        resp.set_header("ETag", f'"{digest}"')

    def _asked_for(self, req: falcon.Request, digest: str, find: Callable[[sa.Connection, str], Found]) -> Found:
        """Return what `find` returns, if the caller may read the bundle. Raises NotFoundError otherwise."""
        extras = extras_of(req.env)
        caller = extras["caller"]
        access.check_may(caller, rules.CLOUD_BUNDLE, "fetching a bundle")
        with self._registry.unit_of_work(extras):
            connection = extras["connection"]
            found = find(connection, digest) if self._may_have(caller, digest, extras) else None
            if not found:
                raise NotFoundError(f"unknown bundle {digest}", "path")
        return found

    def _may_have(self, caller: Identity, digest: str, extras: dict[str, Any]) -> bool:
        granted = access.scopes_of(caller, rules.CLOUD_BUNDLE)
        if Scope.ANY in granted:
            return True
        if Scope.OWN_BUNDLE in granted and self._runs(caller, digest, extras["connection"]):
            return True
        return Scope.OWN_TENANT in granted and self._wanted(digest, extras)

    def _wanted(self, digest: str, extras: dict[str, Any]) -> bool:
        """Return whether it is the caller's. A caller that requests or uploads it is about to run it: reset its unused time."""
        path = deploy.bundle_path(digest)
        # Lock it before its entity, as retention does.
        if not self._bundles.hold(extras["connection"], digest):
            return False
        try:
            entity = self._registry.get_resource(path, extras)
        except KeyError:
            return False
        if entity.attributes.pop(deploy.BUNDLE_UNUSED_SINCE, None) is not None:
            self._registry.save(path, entity, extras)
        return True

    def _runs(self, caller: Any, digest: str, connection: sa.Connection) -> bool:
        extras = {"identity": caller, "connection": connection}
        try:
            application = self._registry.get_resource(deploy.application_path(caller.instance_id), extras)
        except KeyError:
            return False
        return bool(application.attributes.get(deploy.BUNDLE_DIGEST) == digest)
