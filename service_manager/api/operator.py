"""The operators' interface: list every tenant's instances and the work, dispose of one, roll services, stop taking orders."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import falcon
import pydantic
import sqlalchemy as sa

from archelon_core.auth import rules
from archelon_core.auth.policy import Policy
from archelon_core.errors import BadRequestError, NotFoundError
from archelon_core.queue import WorkQueue
from occi_service.server.request_input import read_json, read_query

from ..lifecycle.history import History
from ..lifecycle.rollout import begin_roll_of, roll_state
from ..store import tables
from ..store.instances import Instances, service_extras, show_state
from ..store.services import Catalogue
from ..store.snapshot import WantedState
from .orders import authorized

_PAGE: Final = 1000
#: Text for a database column: no control characters, and no longer than the longest column.
_Text = Annotated[str, pydantic.StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _NoQuery(pydantic.BaseModel, extra="forbid"):
    """The query of a request that takes none."""


class _Listing(_NoQuery):
    state: _Text | None = None
    health: Literal["healthy", "degraded", "down"] | None = None
    service: _Text | None = None
    tenant: _Text | None = None
    after: _Text = ""


class _Roll(_NoQuery):
    service: _Text


class _Draining(_NoQuery):
    draining: bool


class OperatorResource:
    """The resources at `/operator/…`, in JSON."""

    def __init__(
        self,
        database: Any,
        instances: Instances,
        catalogue: Catalogue,
        *,
        history: History,
        policy: Policy,
        queue: WorkQueue,
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._database = database
        self._instances = instances
        self._catalogue = catalogue
        self._history = history
        self._policy = policy
        self._clock = clock

    def on_get_instances(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List all instances by id: `?after=<id>` continues, `?state=`, `?health=`, `?service=` and `?tenant=` filter.

        The reason of an instance's health is not listed, because it is the tenant's: a node's output may be in it.
        """
        query: _Listing = self._check(req, rules.LIST_ALL, _Listing)
        table = tables.instances
        listed = ("id", "tenant", "service", "path", "state", "failed", "health", "generation")
        wanted = sa.select(*[table.c[name] for name in listed])
        for name, given in query.model_dump(exclude={"after"}, exclude_none=True).items():
            wanted = wanted.where(table.c[name] == given)
        wanted = wanted.where(table.c.id > query.after).order_by(table.c.id).limit(_PAGE)
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        _answer(resp, {"instances": [dict(row._mapping) for row in rows]})

    def on_delete_instance(self, req: falcon.Request, resp: falcon.Response, instance: str) -> None:
        """Dispose of an instance of any tenant, even if it is locked."""
        self._check(req, rules.OPERATE)
        with self._database.write() as connection:
            found = self._instances.find(connection, instance)
            entity = self._instances.entity(connection, found) if found is not None else None
            # Locked after the entity, as by every writer of both.
            found = self._instances.find(connection, instance, lock=True)
            if found is None or entity is None:
                raise NotFoundError(f"instance {instance} not found", "path")
            columns: dict[str, Any] = {"wanted": WantedState.GONE.value}
            if found.snapshot.state == "fail" and found.snapshot.failed == "destroy":
                columns |= self._history.resume(connection, found, found.snapshot.generation, self._clock())
            show_state(entity, "destroy", "an operator disposes of this instance")
            self._instances.save_entity(connection, found, entity)
            self._instances.change(connection, instance, columns)
            self._instances.wake(connection, found)
        _answer(resp, {"instance": instance, "state": "destroy"})

    def on_get_services(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List all services: the published bundle, its tenant, and the state of its roll."""
        self._check(req, rules.OPERATE)
        table = tables.services
        with self._database.read() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.type)).all()
            found = [self._service(connection, row) for row in rows]
        _answer(resp, {"services": found})

    def _service(self, connection: sa.Connection, row: sa.Row[Any]) -> dict[str, Any]:
        tenant = self._catalogue.publisher(connection, row.type)
        state = None
        with contextlib.suppress(KeyError):
            entry = self._instances.registry.get_resource(row.id, service_extras(connection, tenant))
            state = roll_state(entry) or None
        return {"service": row.type, "digest": row.digest, "withdrawn": row.withdrawn, "tenant": tenant, "roll": state}

    def on_post_rolls(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Update a service's instances to the published bundle: `{"service": "<type identifier>"}`."""
        self._check(req, rules.OPERATE)
        service = read_json(req, _Roll).service
        with self._database.write() as connection:
            head = self._catalogue.service(connection, service)
            if head is None or head.withdrawn:
                raise BadRequestError("expected the type identifier of a published service", "body service")
            tenant = self._catalogue.publisher(connection, head.type)
            state = begin_roll_of(self._instances, connection, tenant, head.id)
        _answer(resp, {"service": head.type, "digest": head.digest, "roll": state})

    def on_post_children(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Hurtle's `/update/children`: update the instances of every published service to its bundle."""
        self._check(req, rules.OPERATE)
        with self._database.write() as connection:
            published = sa.select(tables.services).where(sa.not_(tables.services.c.withdrawn))
            rows = connection.execute(published.order_by(tables.services.c.type)).all()
            for row in rows:
                begin_roll_of(self._instances, connection, self._catalogue.publisher(connection, row.type), row.id)
        _answer(resp, {"services": [row.type for row in rows]})

    def on_get_work(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List which worker has what under a lease, with the seconds to its end, and the backlog of each topic."""
        self._check(req, rules.OPERATE)
        now = self._clock()
        leases = [
            # The rest of an owner's name identifies the process for other workers only.
            {"worker": ":".join(each.owner.split(":")[:3]), "topic": each.topic, "key": each.key, "attempt": each.attempt,
             "seconds": round(each.end - now, 1)}
            for each in self._queue.leases()
        ]  # fmt: skip
        _answer(resp, {"leases": leases, "backlog": [dataclasses.asdict(each) for each in self._queue.backlog()]})

    def on_get_draining(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return whether the service manager refuses new orders."""
        self._check(req, rules.DRAIN)
        with self._database.read() as connection:
            value = connection.scalar(sa.select(tables.flags.c.value).where(tables.flags.c.name == "draining"))
        _answer(resp, {"draining": value == "yes"})

    def on_put_draining(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Stop or resume taking orders: `{"draining": true}`. Existing instances continue."""
        self._check(req, rules.DRAIN)
        draining = read_json(req, _Draining).draining
        flags = tables.flags
        with self._database.write() as connection:
            connection.execute(flags.delete().where(flags.c.name == "draining"))
            connection.execute(flags.insert().values(name="draining", value="yes" if draining else "no"))
        _answer(resp, {"draining": draining})

    def _check(self, req: falcon.Request, rule: rules.Rule, query: type[_NoQuery] = _NoQuery) -> Any:
        authorized(req, self._policy, rule)
        return read_query(req, query)


def _answer(resp: falcon.Response, value: Any) -> None:
    resp.content_type = "application/json"
    resp.text = json.dumps(value)
