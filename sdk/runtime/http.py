"""The HTTP adapter of an orchestrator: OCCI's kind `orchestrator` at `/orchestrator/default`, on top of the engine.

Middleware verifies tokens (for this one orchestrator); the adapter checks that the caller acts for the instance's tenant.
Parameters, private state and tokens are accepted and never shown.

An event is answered with 200 once it has been processed and the service manager has acknowledged the report. A new event
waits for that a moment, which suffices for most; otherwise the response is 503, and the sender redelivers the event.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from wsgiref.types import StartResponse

import falcon
from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action as OcciAction
from occi.core_model import Entity, Resource

from archelon_api import names
from archelon_api import orchestrator as wire
from archelon_core.auth import IDENTITY, PROBES, Identity, TokenKind
from archelon_core.errors import ConflictError, ForbiddenError, NotFoundError, UnavailableError
from occi_service.registry import InMemoryRegistry
from occi_service.server.app import Application

from ..events import Action
from ..instance import Instance
from .engine import Engine, Refusal
from .reporting import ReportQueue

_LOG: Final = logging.getLogger("archelon.sdk")
_CALLER: Final = "caller"
#: In a request's environment: its events, and whether each was new.
_EVENTS: Final = "archelon.events"
#: Seconds that a response is delayed. The sender's thread waits as long, and may be needed for what the event requires.
_HELD: Final = 0.25


class _OneRegistry(InMemoryRegistry):
    """One entity, visible to every authenticated caller."""

    def get_extras(self, extras: Any) -> Any:
        return None

    def delete_resource(self, key: str, extras: Any) -> None:
        """Do nothing: DELETE starts the phase `destroy`, and may be repeated; the entity exists as long as the process."""


class OrchestratorApplication(Application):
    """The WSGI application, for the orchestrator that `assign` names: a process can make it before it knows which."""

    def __init__(self) -> None:
        super().__init__(_OneRegistry())
        self._backend = _Backend()
        for each in (wire.ORCHESTRATOR, *wire.ORCHESTRATOR.actions):
            self.register_backend(each, self._backend)
        # Runs after the backend, when the request no longer holds the registry's lock.
        self.falcon.add_middleware(self)

    def assign(self, instance: str, engine: Engine, report_queue: ReportQueue) -> None:
        """Set what is served, once, and before the first request.

        Args:
            instance: id of the orchestrator's instance.
            engine: carries out requests.
            report_queue: takes the tokens of an activation.
        """
        self._backend.assign(instance, engine, report_queue)
        self._engine = engine

    def __call__(self, environ: dict[str, Any], response: StartResponse) -> Iterable[bytes]:
        """WSGI, behind the middleware."""
        if environ.get("PATH_INFO") in PROBES:
            return alive(response)
        events: dict[str, bool] = {}
        environ[_EVENTS] = events
        return self._call_occi(environ, response, **{_CALLER: environ.get(IDENTITY), _EVENTS: events})

    def take_order(self, order: Mapping[str, Any]) -> None:
        """Accept an order that came with tokens, like an activation and the actions of its phases."""
        attributes = dict(order)
        phases = attributes.pop(wire.PHASES, None) or []
        try:
            self._backend.activate(attributes)
            entity = Resource(wire.PATH, wire.ORCHESTRATOR, [])
            entity.attributes, entity.actions = attributes, list(wire.ORCHESTRATOR.actions)
            self.registry.add_resource(wire.PATH, entity, None)
            following = [(str(each["phase"]), each.get(wire.INTERNAL_PARAMETERS) or {}) for each in phases]
            if following:
                self._engine.phases(_generation(attributes), following)
        except (Refusal, ConflictError) as error:
            # It has a newer order already, which was sent.
            _LOG.info("the order in the answer is not wanted: %s", error)

    def process_response(self, req: falcon.Request, resp: falcon.Response, _resource: object, succeeded: bool) -> None:
        """Falcon's hook: turn the response for an unsettled event into a 503."""
        if not succeeded:
            return
        for event, new in req.env[_EVENTS].items():
            if not self._engine.await_settled(event, _HELD if new else 0.0):
                text = "the event is not settled yet; redeliver it until the response is 200"
                self._on_error(req, resp, UnavailableError(text, wire.EVENT_ID, retry_after=1), {})


def alive(response: StartResponse) -> Iterable[bytes]:
    """Answer a probe."""
    body = b'{"status": "ok"}'
    response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


class _Backend(KindBackend, ActionBackend):
    def assign(self, instance: str, engine: Engine, report_queue: ReportQueue) -> None:
        self._instance = instance
        self._engine = engine
        self._report_queue = report_queue

    # the entity -------------------------------------------------------------------------------------------------------

    def create(self, entity: Entity, extras: Any) -> None:
        if entity.identifier != wire.PATH:
            raise NotFoundError(f"an orchestrator has one entity, at {wire.PATH}", "path")
        self._activate(entity.attributes, extras)
        entity.actions = list(wire.ORCHESTRATOR.actions)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        self._activate(new.attributes, extras)
        old.attributes = new.attributes

    def retrieve(self, entity: Entity, extras: Any) -> None:
        self._caller(extras)
        instance, details = self._engine.instance, self._engine.details
        if instance is not None:
            entity.attributes[names.GENERATION] = instance.generation
        if details.stack_state:
            entity.attributes |= {wire.STACK_STATE: details.stack_state, wire.STACK_ID: details.stack_id}

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Hurtle's update: a partial update, whose attributes are the tenant's."""
        self._caller(extras)
        instance = self._engine.instance
        known = instance.parameters if instance is not None else {}
        given = new.attributes.get(wire.PARAMETERS)
        with _refusals():
            self._engine.phase(
                "update",
                _generation(new.attributes) if names.GENERATION in new.attributes else None,
                parameters={**known, **(given if isinstance(given, dict) else {})},
                internal=new.attributes.get(wire.INTERNAL_PARAMETERS),
            )

    def delete(self, entity: Entity, extras: Any) -> None:
        self._caller(extras)
        with _refusals():
            self._engine.phase("destroy", None)

    # actions ----------------------------------------------------------------------------------------------------------

    def action(self, entity: Entity, action: OcciAction, attributes: dict[str, Any], extras: Any) -> None:
        self._caller(extras)
        with _refusals():
            if action == wire.NOTIFY:
                event = str(attributes[wire.EVENT_ID])
                extras[_EVENTS][event] = self._engine.notify(
                    event,
                    str(attributes[wire.EVENT_TYPE]),
                    str(attributes.get(wire.EVENT_SUBJECT) or ""),
                    attributes.get(wire.EVENT_DATA) or {},
                )
            elif action == wire.ACT:
                invoked = Action(str(attributes[wire.ACTION_NAME]), attributes.get(wire.ACTION_ATTRIBUTES) or {})
                event = str(attributes[wire.EVENT_ID])
                extras[_EVENTS][event] = self._engine.act(event, invoked, _generation(attributes))
            else:
                self._engine.phase(
                    action.term,
                    _generation(attributes),
                    parameters=attributes.get(wire.PARAMETERS),
                    internal=attributes.get(wire.INTERNAL_PARAMETERS),
                )

    # callers ----------------------------------------------------------------------------------------------------------

    def _activate(self, attributes: dict[str, Any], extras: Any) -> None:
        caller = self._caller(extras)
        if attributes[names.TENANT] != caller.tenant_id:
            raise ForbiddenError("the token is another tenant's", "token")
        if caller.kind is not TokenKind.SERVICE:
            raise ForbiddenError("only the service manager activates an orchestrator", "token")
        with _refusals():
            self.activate(attributes)

    def activate(self, attributes: dict[str, Any]) -> None:
        """Activate, and remove from the attributes what is not shown. Raises Refusal, ConflictError."""
        if attributes[names.INSTANCE] != self._instance:
            raise ConflictError(f"this is the orchestrator of {self._instance}", names.INSTANCE)
        given = attributes.pop(wire.TOKENS, None) or {}
        private = attributes.pop(wire.PRIVATE, None) or {}
        instance = Instance(
            id=str(attributes[names.INSTANCE]),
            tenant=str(attributes[names.TENANT]),
            service=str(attributes[names.SERVICE]),
            generation=_generation(attributes),
            parameters=attributes.pop(wire.PARAMETERS, None) or {},
            internal=attributes.pop(wire.INTERNAL_PARAMETERS, None) or {},
        )
        if given:
            self._report_queue.accept_tokens(given)
        self._engine.activate(instance, private)

    def _caller(self, extras: Any) -> Identity:
        caller: Identity | None = extras.get(_CALLER)
        if caller is None:
            raise ForbiddenError("a token is required", "token")
        known = self._engine.instance
        if known is not None and caller.tenant_id != known.tenant:
            raise ForbiddenError("the token is another tenant's", "token")
        if caller.instance_id not in (None, self._instance):
            raise ForbiddenError("the token is another instance's", "token")
        return caller


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise ConflictError(str(refusal)) from None


def _generation(attributes: Mapping[str, Any]) -> int:
    # In JSON, 1.0 is a whole number too.
    return int(attributes[names.GENERATION])
