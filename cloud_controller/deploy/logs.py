"""The output of an orchestrator from a position on: `/application/<id>/logs?since=<position>`, or `/app/…`.

The response's `X-Next` is the position to continue from. With `follow=1` a response waits, for a limited time, until there is
output, so that a polling reader gets every line soon and no thread is held for ever. Only a few readers may wait at once; others
get an immediate response, which keeps threads free for other requests.

With `node=web.0` it is the output of a node of the instance's stacks, also for the instance's tenant: the name is that of the
stack's resource. `stack` and `region` choose among several stacks with such a node. The path is the instance's, since a tenant
knows its instance, but a stack's id only after the orchestrator has reported it.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

import falcon
import pydantic

from archelon_api import deploy, names
from archelon_core.auth import HeavyRequests, TooManyRequestsError, rules
from archelon_core.database import Database
from archelon_core.errors import ConflictError, NotFoundError, shown
from occi_service.registry.base import Registry
from occi_service.server.request_input import read_query

from ..core import access
from ..core.module import extras_of
from ..core.resources import Objects
from ..platforms.interface import Applications, DeployError, Log, StackOrder, UnknownNodeError
from .regions import Regions
from .stacks import TOPIC, stack_order

#: Seconds that a following reader waits for output.
_FOLLOW_TIMEOUT: Final = 20.0
#: Reads of nodes' output in this process: each asks a platform, which may take seconds, and a tenant may send many.
_READS: Final = HeavyRequests(per_key=2, total=3)
_Name = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=255)]


class _Reading(pydantic.BaseModel, extra="forbid"):
    #: A position. Some platforms count nanoseconds since the epoch, which have 19 digits.
    since: Annotated[str, pydantic.StringConstraints(pattern="^[0-9]{1,18}$|^[0-8][0-9]{18}$")] = "0"
    follow: str = ""


class _NodeReading(_Reading):
    node: _Name | None = None
    stack: _Name | None = None
    region: _Name | None = None


class NodeLogs:
    """Finds a node among the stacks of an instance."""

    def __init__(self, registry: Registry, objects: Objects, regions: Regions, *, database: Database) -> None:
        self._registry = registry
        self._objects = objects
        self._regions = regions
        self._database = database

    def reader(
        self, instance: str, node: str, *, stack: str | None, region: str | None, extras: dict[str, Any]
    ) -> Callable[[int], Log]:
        """Return how to read the node's output from a position on. Raises NotFoundError, ConflictError.

        A read also raises TooManyRequestsError, if too many are under way in this process.
        """
        found = []
        named = []
        for order, attributes in self._stacks(instance, extras):
            if stack not in (None, order.name) or region not in (None, attributes[names.REGION]):
                continue
            found.append((order, attributes))
            if any(each.get("name") == node for each in attributes.get(deploy.STACK_RESOURCES) or ()):
                named.append((order, attributes))
        # A node's output can be read before the stack shows the node.
        chosen = found if len(found) == 1 else named
        if not chosen:
            raise NotFoundError(f"no stack of the instance has a node {shown(node)}", "node")
        if len(chosen) > 1:
            places = ", ".join(sorted({f"{order.name} in {each[names.REGION]}" for order, each in chosen}))
            raise ConflictError(
                f"several stacks have the node {shown(node)} ({places}); give `stack` or `region`", "node"
            )
        order, attributes = chosen[0]
        stacks = self._regions.stacks(str(attributes[names.REGION]), str(attributes[deploy.STACK_FORMAT]))

        tenant = extras["caller"].tenant_id

        def read(since: int) -> Log:
            if not _READS.begin(tenant):
                message = "the output of too many nodes is being read at once; try again in 1 s"
                raise TooManyRequestsError(message, "node", headers={"Retry-After": "1"})
            try:
                return stacks.read_log(order, node, since)
            except UnknownNodeError as problem:
                raise NotFoundError(str(problem), "node") from problem
            except DeployError as problem:
                raise ConflictError(str(problem), "node") from problem
            finally:
                _READS.end(tenant)

        return read

    def _stacks(self, instance: str, extras: dict[str, Any]) -> Iterator[tuple[StackOrder, dict[str, Any]]]:
        with self._database.read() as connection:
            rows = [each for each in self._objects.of_instance(connection, instance) if each.topic == TOPIC]
        for present in rows:
            try:
                # The registry shows the caller what it may see.
                attributes = self._registry.get_resource(present.path, extras).attributes
            except KeyError:
                continue
            yield stack_order(attributes, present), attributes


class _Followers:
    """Admits readers that wait: a limited number, and at most half of it for one tenant."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._each = max(1, total // 2)
        self._waiting: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def admitted(self, tenant: str) -> Iterator[bool]:
        with self._lock:
            admitted = self._waiting.total() < self._total and self._waiting[tenant] < self._each
            self._waiting[tenant] += admitted
        try:
            yield admitted
        finally:
            with self._lock:
                self._waiting[tenant] -= admitted
                if not self._waiting[tenant]:
                    del self._waiting[tenant]


class LogRoute:
    """Serves logs of the applications of the kind at `location`, and of nodes with `nodes`.

    A following reader polls every `interval` seconds; at most `followers` of
    this process may wait at once, and at most half of them for one tenant.
    """

    def __init__(
        self,
        registry: Registry,
        applications: Applications,
        *,
        location: str = deploy.APPLICATION.location,
        nodes: NodeLogs | None = None,
        interval: float = 0.5,
        followers: int = 4,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry = registry
        self._applications = applications
        self._location = location
        self._nodes = nodes
        self._interval = interval
        self._followers = _Followers(followers)
        self._clock = clock
        self._sleep = sleep

    def on_get(self, req: falcon.Request, resp: falcon.Response, instance: str) -> None:
        """Return the output from `since` on."""
        extras: dict[str, Any] = extras_of(req.env)
        if self._nodes is None:
            asked = read_query(req, _Reading)
            read = self._of_application(instance, extras)
        else:
            asked = read_query(req, _NodeReading)
            read = self._of_application(instance, extras, node=asked.node)
            if asked.node is not None:
                read = self._nodes.reader(instance, asked.node, stack=asked.stack, region=asked.region, extras=extras)
        since = int(asked.since)
        found = read(since)
        if not found.data and asked.follow == "1":
            with self._followers.admitted(extras["caller"].tenant_id) as admitted:
                found = self._follow(read, since) if admitted else found
        resp.content_type = "text/plain; charset=utf-8"
        resp.set_header(deploy.LOG_START, str(found.start))
        resp.set_header(deploy.LOG_NEXT, str(found.next))
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Content-Type-Options", "nosniff")  # the output may be meant for a browser
        resp.data = found.data

    def _of_application(
        self, instance: str, extras: dict[str, Any], *, node: str | None = None
    ) -> Callable[[int], Log]:
        """Return how to read the application's log, after checking that the caller may read it, or its node's output."""
        if node is None:
            access.check_served(extras["caller"])
        else:
            access.check_may(extras["caller"], rules.READ_OUTPUT, "a node's output")
        try:
            self._registry.get_resource(f"{self._location}{instance}", extras)
        except KeyError:
            raise NotFoundError(f"unknown application {shown(instance)}", "path") from None
        return functools.partial(self._applications.read_log, instance)

    def _follow(self, read: Callable[[int], Log], since: int) -> Log:
        end = self._clock() + _FOLLOW_TIMEOUT
        while True:
            self._sleep(self._interval)
            found = read(since)
            if found.data or self._clock() >= end:
                return found
