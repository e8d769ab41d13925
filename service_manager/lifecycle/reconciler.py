"""The work on instances: one step at a time, as `lifecycle.plan` names it.

`load` reads row and parameters, `step` takes the named step (at most one thing in the world), `save` writes what came
of it in the transaction that holds the fencing token. A step that could not reach somebody waits and is tried again,
until its phase's time is over; nothing here counts as failed because of one lost packet.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa

import bundles
from archelon_api import deploy, disposal, names, orchestrator, tokens
from archelon_api import service_manager as wire
from archelon_core import queue
from archelon_core.auth import TokenIssuer
from archelon_core.backoff import Backoff
from archelon_core.encryption import Cipher
from occi_service import client

from ..remote.cloud_controller import Caller, Cloud
from ..remote.orchestrator_calls import CircuitOpenError
from ..store import tables
from ..store.instances import Instance, Instances, parameters_of
from ..store.services import Catalogue
from ..store.snapshot import Snapshot, WantedState
from . import planner
from .changes import Change, Changes
from .history import History
from .metrics import PhaseMetrics
from .planner import RetryPolicy

#: Seconds between two looks while somebody else's turn is awaited: a push that was lost costs at most this.
_LOOK: Final = 5.0
#: Seconds between two polls of an orchestrator that is awaited.
_POLLS: Final = Backoff(_LOOK, longest=30.0)
#: A look at a disposal adds at most this part of the time that it has taken.
_PARTS: Final = 8
#: Seconds before a step that could not reach somebody is taken again.
_RETRIES: Final = Backoff(0.2, longest=10.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What is wanted, the step that it needs, and all that this step has to know (nothing else is read for it)."""

    instance: Instance
    manifest: bundles.Manifest
    next: planner.Step
    now: float
    parameters: Mapping[str, Any] = dataclasses.field(repr=False)
    start_token: str = dataclasses.field(repr=False)
    private: Mapping[str, Any] = dataclasses.field(repr=False)


class Reconciler(queue.Handler[Order, Change]):
    """Handler of the topic `instance`.

    Args:
        url: under which this service manager is reached by orchestrators.
        design_url: under which orchestrators reach design.
        keys: public keys of those who call orchestrators, as a JWK set in JSON.
        patience: limits of phases that a manifest does not set.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        instances: Instances,
        catalogue: Catalogue,
        cloud: Cloud,
        *,
        history: History,
        cipher: Cipher,
        issuer: TokenIssuer,
        metrics: PhaseMetrics,
        url: str,
        design_url: str,
        keys: str,
        patience: RetryPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._catalogue = catalogue
        self._cloud = cloud
        self._changes = Changes(instances, catalogue, history, metrics, clock=clock)
        self._cipher = cipher
        self._issuer = issuer
        self._url = url.rstrip("/")
        self._design_url = design_url
        self._keys = keys
        self._patience = patience
        self._clock = clock

    # load -------------------------------------------------------------------------------------------------------------

    def load(self, connection: sa.Connection, item: queue.Item) -> Order | None:
        """The instance as it is; None if it is gone."""
        instance = self._instances.find(connection, item.key)
        if instance is None:
            return None
        self._catalogue.keep_up(connection, instance.service)
        manifest = self._catalogue.manifest(instance.snapshot.digest, connection)
        now = self._clock()
        step = planner.plan(instance.snapshot, self._patience_of(manifest), now)
        parameters: Mapping[str, Any] = {}
        private = start_token = ""  # nosec  # none yet
        if isinstance(step, planner.Activate | planner.SendPhase | planner.Await):
            entity = self._instances.entity_as_seen(instance)
            parameters = parameters_of(entity, instance.outputs) if entity is not None else {}
        if isinstance(step, planner.MakeApplication) and instance.start_token:
            start_token = self._cipher.decrypt(instance.start_token, context=(instance.id, "start_token"))
        if isinstance(step, planner.Activate) and instance.private:
            private = self._cipher.decrypt(instance.private, context=(instance.id, "private"))
        return Order(instance, manifest, step, now, parameters, start_token, json.loads(private or "{}"))

    # step -------------------------------------------------------------------------------------------------------------

    def step(self, order: Order) -> queue.Progress[Change]:
        """Take the next step."""
        if isinstance(order.next, planner.Rest):
            return queue.Done()
        try:
            return self._take(order.next, order, order.now)
        except CircuitOpenError as error:
            return queue.Wait(min(error.seconds, self._time_left(order)))
        except _GoneError:
            return queue.Advance(_forgotten(order.instance.snapshot))
        except (client.BadRequestError, client.ForbiddenError, client.ConflictError, client.TooLargeError) as error:
            return self._refused(order, error)
        except (client.ClientError, LookupError) as error:
            # Away, overloaded, not yet up: it passes, or the phase's time does.
            consecutive_failures = order.instance.consecutive_failures + 1
            change = Change(
                {"consecutive_failures": consecutive_failures},
                message=f"waiting: {_plain(error)}" if consecutive_failures > 2 else None,
            )
            return queue.Wait(_RETRIES.delay(consecutive_failures), change)

    def _time_left(self, order: Order) -> float:
        """Seconds until the present attempt is overdue, which somebody is to notice in time."""
        seen = order.instance.snapshot
        overdue = seen.begun + self._patience_of(order.manifest)[seen.state].timeout
        return overdue - order.now if overdue > order.now else math.inf

    def _refused(self, order: Order, error: client.ClientError) -> queue.Progress[Change]:
        """What will not pass by waiting: the attempt failed."""
        seen = order.instance.snapshot
        now = self._clock()
        if seen.state == "active":
            return queue.Wait(
                _LOOK, Change({"consecutive_failures": order.instance.consecutive_failures + 1}, message=_plain(error))
            )
        failed = dataclasses.replace(seen, outcome="failed", outcome_message=_plain(error))
        if isinstance(order.next, planner.Dispose):
            failed = dataclasses.replace(failed, disposal="failed")
        return self._take(planner.plan(failed, self._patience_of(order.manifest), now), order, now)

    def _take(self, step: planner.Step, order: Order, now: float) -> queue.Progress[Change]:
        instance = order.instance
        seen = instance.snapshot
        match step:
            case planner.Enter(state):
                return self._then(order, self._enter(seen, state, now))
            case planner.TryAgain(at, reason):
                columns: dict[str, Any] = {
                    "attempt": seen.attempt + 1,
                    "retry_at": at,
                    "begun": at,
                    "sent": 0,
                    "outcome": None,
                }
                if seen.disposal is not None or isinstance(order.next, planner.Dispose):
                    columns["disposal"] = "again"
                message = f"attempt {seen.attempt + 1} of {seen.state} failed: {reason}"
                return queue.Wait(observed=Change(columns, message=message, decided_on=instance.snapshot), until=at)
            case planner.GiveUp(phase, reason):
                failed: dict[str, Any] = {"state": "fail", "failed": phase, "sent": 0, "retry_at": None}
                text = f"{phase} failed: {reason}"
                return queue.Done(
                    Change(failed, enter="fail", ended="failed", message=text, decided_on=instance.snapshot)
                )
            case planner.Await(until, application):
                if application and instance.consecutive_failures > 0:
                    return self._look(order, until, now)
                return queue.Wait(_pause(until, now), Change({"consecutive_failures": 1}) if application else None)
            case planner.ForgetApplication():
                return queue.Advance(dataclasses.replace(_forgotten(seen), decided_on=seen))
            case planner.MakeApplication():
                return self._then(order, self._make(order))
            case planner.Activate():
                return self._then(order, self._activate(order))
            case planner.SendPhase():
                self._tell(order, self._address(order))
                return self._then(order, Change({"sent": seen.boots, "consecutive_failures": 0}))
            case planner.Dismiss():
                try:
                    self._tell(order, self._address(order))
                except client.NotFoundError:
                    # It has started anew, and its word of that is still to come: it has disposed of nothing.
                    anew = Change({"boots": tables.instances.c.boots + 1, "consecutive_failures": 0}, decided_on=seen)
                    return queue.Wait(_RETRIES.first, anew)
                return self._then(order, Change({"sent": seen.boots, "consecutive_failures": 0}))
            case planner.Dispose():
                return self._dispose(order)
            case planner.Remove():
                self._cloud.revoke_delegation(_caller(instance))
                # Before the row goes: a worker that takes over in between does it again.
                self._issuer.revoke_instance(instance.id)
                self._cloud.forget(instance.id)
                return queue.Done(Change(removed=True, ended="done"))
            case planner.Rest():
                return queue.Done()

    def _then(self, order: Order, change: Change) -> queue.Progress[Change]:
        """What follows a change, as far as can be told from here: to write it and to wait is one transaction, not two.

        What happens meanwhile is not lost: a report or an order makes the work due at once, however it is settled.
        """
        after = dataclasses.replace(order.instance.snapshot, **change.columns_of_snapshot())
        match planner.plan(after, self._patience_of(order.manifest), order.now):
            case planner.Rest():
                return queue.Done(change)
            case planner.Await(until, True):
                waiting = dataclasses.replace(change, columns={**change.columns, "consecutive_failures": 1})
                return queue.Wait(_pause(until, order.now), waiting)
            case _:
                return queue.Advance(change)

    def _enter(self, seen: Snapshot, state: str, now: float) -> Change:
        columns: dict[str, Any] = {
            "state": state,
            "attempt": 0,
            "sent": 0,
            "outcome": None,
            "outcome_message": "",
            "retry_at": None,
            "begun": now,
            "consecutive_failures": 0,
            "phase_generation": seen.generation,
        }
        if seen.outcome == "done" and seen.state in ("deploy", "update"):
            columns["applied"] = seen.phase_generation
        ended = None
        if seen.state not in ("active", "inactive", "fail"):
            overtaken = state == "destroy" and seen.wanted is WantedState.GONE
            ended = "overtaken" if overtaken else "done"
        return Change(columns, enter=state, ended=ended, message="", decided_on=seen)

    def _look(self, order: Order, until: float, now: float) -> queue.Progress[Change]:
        """Look for ourselves while an orchestrator is awaited.

        A crash is told, not only a time-out; and what was told to the orchestrator is told again, which makes it
        report again: a report that was lost is found so.
        """
        instance = order.instance
        seen = instance.snapshot
        consecutive_failures = instance.consecutive_failures + 1
        pause = min(max(until - now, 0.0), _POLLS.delay(consecutive_failures - 1))
        application = self._application(instance)
        state = application.attributes.get(deploy.APP_STATE)
        said = str(application.attributes.get(deploy.APP_STATE_MESSAGE) or "")
        message = f"the orchestrator is in trouble: {said}" if state == "error" else None
        url = application.attributes.get(deploy.APP_URL)
        if url and seen.boots > 0 and seen.sent == seen.boots:
            try:
                self._tell(order, str(url).rstrip("/"))
            except client.NotFoundError:
                # It has started anew, and its word of that was lost.
                return queue.Advance(
                    Change({"boots": tables.instances.c.boots + 1, "consecutive_failures": 0}, decided_on=seen)
                )
        return queue.Wait(pause, Change({"consecutive_failures": consecutive_failures}, message=message))

    def _tell(self, order: Order, address: str) -> None:
        """Tell an orchestrator the present phase; what it does already, or has done, it does not do again."""
        state = order.instance.snapshot.state
        caller = _caller(order.instance)
        if state == "destroy":
            self._cloud.dismiss(address, caller)
        else:
            self._cloud.phase(address, state, self._order_attributes(order, state), caller)

    def _application(self, instance: Instance) -> client.Entity:
        try:
            return self._cloud.application(_caller(instance))
        except client.NotFoundError:
            raise _GoneError from None

    def _make(self, order: Order) -> Change:
        instance = order.instance
        seen = instance.snapshot
        caller = _caller(instance)
        attributes: dict[str, Any] = {
            names.SERVICE: instance.service,
            names.GENERATION: seen.generation,
            deploy.APPLICATION_ENV: {
                orchestrator.ENV_INSTANCE: instance.id,
                orchestrator.ENV_SERVICE_MANAGER: self._url + instance.path,
                orchestrator.ENV_DESIGN: self._design_url,
                orchestrator.ENV_TOKEN: order.start_token,
                orchestrator.ENV_KEYS: self._keys,
            },
        }
        if order.manifest.image is not None:
            attributes[deploy.BUNDLE_IMAGE] = order.manifest.image
        else:
            attributes[deploy.BUNDLE_DIGEST] = seen.digest
            if not self._cloud.has_bundle(seen.digest, caller):
                self._cloud.put_bundle(seen.digest, self._catalogue.archive(seen.digest), caller)
        title = f"{order.manifest.term}-{instance.id}"
        self._cloud.make_application(attributes, title, caller)
        return Change({"made": seen.digest, "consecutive_failures": 0})

    def _address(self, order: Order) -> str:
        """Where the orchestrator answers; it moves when its application is restarted elsewhere."""
        if order.instance.address and order.instance.consecutive_failures == 0:
            return order.instance.address
        return self._address_now(order)

    def _address_now(self, order: Order) -> str:
        """Where deploy says that it runs now: an address that was remembered may be somebody else's since it has ended."""
        found = self._application(order.instance).attributes.get(deploy.APP_URL)
        if not found:
            raise LookupError("the orchestrator's application has no address yet")
        return str(found).rstrip("/")

    def _activate(self, order: Order) -> Change:
        instance = order.instance
        # It is sent the instance's tokens, and its secrets.
        address = self._address_now(order)
        attributes: dict[str, Any] = {
            names.TENANT: instance.tenant,
            names.SERVICE: instance.service,
            **self._order_attributes(order, "activate"),
            orchestrator.PRIVATE: dict(order.private),
            orchestrator.TOKENS: self.tokens(instance),
        }
        self._cloud.activate(address, attributes, _caller(instance))
        return Change({"activated": instance.snapshot.boots, "address": address, "consecutive_failures": 0})

    def tokens(self, instance: Instance) -> dict[str, str]:
        """Fresh tokens of an instance, by audience."""
        return {
            audience: self._issuer.for_instance(instance.id, tenant_id=instance.tenant, audience=audience)
            for audience in (tokens.AUDIENCE_CLOUD_CONTROLLER, tokens.AUDIENCE_SERVICE_MANAGER)
        }

    def _order_attributes(self, order: Order, phase: str) -> dict[str, Any]:
        internal = order.manifest.internal.get(bundles.Phase(phase), ())
        return {
            names.GENERATION: order.instance.snapshot.phase_generation,
            orchestrator.PARAMETERS: dict(order.parameters),
            orchestrator.INTERNAL_PARAMETERS: {each.name: each.value for each in internal},
        }

    def _dispose(self, order: Order) -> queue.Progress[Change]:
        instance = order.instance
        seen = instance.snapshot
        found = self._cloud.dispose(seen.generation, instance.service, _caller(instance), ask=seen.disposal != "asked")
        state = found.attributes.get(disposal.DISPOSAL_STATE)
        if state == "done":
            audit = json.dumps(found.attributes.get(disposal.DISPOSAL_AUDIT) or [])
            return queue.Advance(Change({"disposal": "done", "audit": audit, "consecutive_failures": 0}))
        message = str(found.attributes.get(disposal.DISPOSAL_MESSAGE) or "")
        if state == "failed" and seen.disposal == "asked":
            return queue.Advance(Change({"disposal": "failed", "outcome_message": message, "consecutive_failures": 0}))
        # Nobody tells when it is done. The pauses grow with what it takes, and so what is added stays a small part of that.
        taken = 0.0 if seen.disposal is None else order.now - seen.begun
        pause = min(_LOOK, max(_RETRIES.first, taken / _PARTS))
        columns: dict[str, Any] = {
            "disposal": "asked",
            "outcome_message": message,
            "consecutive_failures": instance.consecutive_failures + 1,
        }
        if seen.disposal is None:
            # Its time, and its attempts, are its own.
            columns |= {"begun": order.now, "attempt": 0}
        return queue.Wait(pause, Change(columns, message=message or None))

    def _patience_of(self, manifest: bundles.Manifest) -> dict[str, RetryPolicy]:
        found = {}
        for state in wire.STATES:
            limits = manifest.phases.get(bundles.Phase(state)) if state in _PHASE_NAMES else None
            found[state] = dataclasses.replace(
                self._patience,
                timeout=self._patience.timeout if limits is None or limits.timeout is None else limits.timeout,
                retries=self._patience.retries if limits is None or limits.retries is None else limits.retries,
            )
        return found

    # save -------------------------------------------------------------------------------------------------------------

    def save(self, connection: sa.Connection, item: queue.Item, observed: Change) -> None:
        """Write what a step did."""
        self._changes.write(connection, item.key, observed)

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """A slip of our own, many times in a row: say so, and let the tenant retry or delete."""
        instance = self._instances.find(connection, item.key)
        if instance is None:
            return
        columns = {"state": "fail", "failed": instance.snapshot.state, "sent": 0, "retry_at": None}
        if instance.snapshot.state in ("active", "inactive", "fail"):
            columns = {}
        self.save(connection, item, Change(columns, enter="fail" if columns else None, ended="failed", message=reason))


_PHASE_NAMES: Final = frozenset(phase.value for phase in bundles.Phase)


class _GoneError(Exception):
    """The orchestrator's application is not there: somebody has removed it."""


def _forgotten(seen: Snapshot) -> Change:
    """Nothing that was told to the present application's orchestrator counts any more."""
    activated = -1 if seen.activated else 0
    return Change({"made": None, "boots": 0, "activated": activated, "sent": 0, "consecutive_failures": 0})


def _pause(until: float, now: float) -> float:
    """Seconds until the first look at what is awaited."""
    return min(max(until - now, 0.0), _LOOK)


def _caller(instance: Instance) -> Caller:
    return Caller(instance.tenant, instance.id, instance.request_id, instance.snapshot.boots)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
