"""The reconciler of instances: one step at a time, as determined by `planner.plan`.

`load` reads the row and the parameters, `step` carries out the planned step (at most one external change), `save` writes the
result in the transaction that holds the fencing token. A step that cannot reach a service is retried until its phase times out;
one lost packet never fails a phase.
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
from ..store.snapshot import Snapshot
from . import order as orders
from . import planner
from .changes import Changes, InstanceChange, entered

#: First pause, in seconds, between polls of an orchestrator that is awaited.
_POLL_INTERVAL: Final = 5.0
#: Backoff of the polls of an orchestrator that is awaited.
_POLL_BACKOFF: Final = Backoff(_POLL_INTERVAL, longest=30.0)
#: Polls of a disposal are delayed by its duration divided by this.
_DISPOSAL_DIVISOR: Final = 8
#: Backoff of a step that could not reach a service.
_RETRY_BACKOFF: Final = Backoff(0.2, longest=10.0)


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedInstance:
    """An instance, its next step, and all data that this step needs (the step reads nothing else)."""

    instance: Instance
    manifest: bundles.Manifest
    next: planner.Step
    now: float
    parameters: Mapping[str, Any] = dataclasses.field(repr=False)
    start_token: str = dataclasses.field(repr=False)
    private: Mapping[str, Any] = dataclasses.field(repr=False)


class Reconciler(queue.Handler[LoadedInstance, InstanceChange]):
    """Handler of the topic `instance`.

    Args:
        url: of this service manager, for orchestrators.
        design_url: of design, for orchestrators.
        keys: public keys of the callers of orchestrators, as a JWK set in JSON.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        instances: Instances,
        catalogue: Catalogue,
        cloud: Cloud,
        *,
        changes: Changes,
        cipher: Cipher,
        issuer: TokenIssuer,
        url: str,
        design_url: str,
        keys: str,
        clock: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._catalogue = catalogue
        self._cloud = cloud
        self._changes = changes
        self._cipher = cipher
        self._issuer = issuer
        self._url = url.rstrip("/")
        self._design_url = design_url
        self._keys = keys
        self._clock = clock

    def load(self, connection: sa.Connection, item: queue.Item) -> LoadedInstance | None:
        """Return the instance and its next step; None if it is gone."""
        instance = self._instances.find(connection, item.key)
        if instance is None:
            return None
        self._catalogue.refresh_for(connection, instance.service)
        manifest = self._catalogue.manifest(instance.snapshot.digest, connection)
        now = self._clock()
        step = planner.plan(instance.snapshot, self._changes.policies_of(manifest), now)
        parameters: Mapping[str, Any] = {}
        private = start_token = ""  # nosec
        if isinstance(step, planner.Activate | planner.SendPhase | planner.Await):
            entity = self._instances.entity_unlocked(instance)
            parameters = parameters_of(entity, instance.outputs) if entity is not None else {}
        if isinstance(step, planner.MakeApplication) and instance.start_token:
            start_token = self._cipher.decrypt(instance.start_token, context=(instance.id, "start_token"))
        if isinstance(step, planner.Activate) and instance.private:
            private = self._cipher.decrypt(instance.private, context=(instance.id, "private"))
        return LoadedInstance(instance, manifest, step, now, parameters, start_token, json.loads(private or "{}"))

    def step(self, order: LoadedInstance) -> queue.Progress[InstanceChange]:
        """Carry out the next step."""
        try:
            return self._execute(order.next, order, order.now)
        except CircuitOpenError as error:
            return queue.Wait(min(error.seconds, self._time_left(order)))
        except _ApplicationGoneError:
            return queue.Advance(_reset_application(order.instance.snapshot))
        except (client.BadRequestError, client.ForbiddenError, client.ConflictError, client.TooLargeError) as error:
            return self._refused(order, error)
        except (client.ClientError, LookupError) as error:
            # Transient (unavailable, overloaded, starting), or the phase times out.
            consecutive_failures = order.instance.consecutive_failures + 1
            change = InstanceChange(
                {"consecutive_failures": consecutive_failures},
                message=f"waiting: {_one_line(error)}" if consecutive_failures > 2 else None,
            )
            return queue.Wait(_RETRY_BACKOFF.delay(consecutive_failures), change)

    def _time_left(self, order: LoadedInstance) -> float:
        """Return the seconds until the present attempt times out, when a worker must notice it."""
        seen = order.instance.snapshot
        overdue = seen.begun + self._changes.policies_of(order.manifest)[seen.state].timeout
        return overdue - order.now if overdue > order.now else math.inf

    def _refused(self, order: LoadedInstance, error: client.ClientError) -> queue.Progress[InstanceChange]:
        """Fail the attempt: a retry of the call would be refused again; or the phase, if every attempt would be."""
        seen = order.instance.snapshot
        now = self._clock()
        if seen.state == "active":
            failures = {"consecutive_failures": order.instance.consecutive_failures + 1}
            return queue.Wait(_POLL_INTERVAL, InstanceChange(failures, message=_one_line(error)))
        hopeless = isinstance(error, client.BadRequestError | client.TooLargeError)
        outcome = "refused" if hopeless else "failed"
        failed = dataclasses.replace(seen, outcome=outcome, outcome_message=_one_line(error))
        if isinstance(order.next, planner.Dispose):
            failed = dataclasses.replace(failed, disposal="failed")
        return self._execute(planner.plan(failed, self._changes.policies_of(order.manifest), now), order, now)

    def _execute(self, step: planner.Step, order: LoadedInstance, now: float) -> queue.Progress[InstanceChange]:
        instance = order.instance
        seen = instance.snapshot
        match step:
            case planner.Enter(state):
                return self._then(order, entered(seen, state, now))
            case planner.TryAgain(at, reason):
                columns: dict[str, Any] = {"attempt": seen.attempt + 1, "retry_at": at, "begun": at}
                columns |= {"sent": 0, "outcome": None}
                if seen.disposal is not None or isinstance(order.next, planner.Dispose):
                    columns["disposal"] = "again"
                message = f"attempt {seen.attempt + 1} of {seen.state} failed: {reason}"
                return queue.Wait(observed=InstanceChange(columns, message=message, decided_on=seen), until=at)
            case planner.GiveUp(phase, reason):
                failed: dict[str, Any] = {"state": "fail", "failed": phase, "sent": 0, "retry_at": None}
                text = f"{phase} failed: {reason}"
                return queue.Done(InstanceChange(failed, enter="fail", ended="failed", message=text, decided_on=seen))
            case planner.Await(until, application):
                if application and instance.consecutive_failures > 0:
                    return self._poll(order, until, now)
                return queue.Wait(
                    _pause(until, now), InstanceChange({"consecutive_failures": 1}) if application else None
                )
            case planner.ForgetApplication():
                return queue.Advance(dataclasses.replace(_reset_application(seen), decided_on=seen))
            case planner.MakeApplication():
                return self._then(order, self._put_application(order))
            case planner.Activate():
                return self._then(order, self._activate(order))
            case planner.SendPhase():
                self._send_phase(order, self._address(order))
                return self._then(order, InstanceChange({"sent": seen.boots, "consecutive_failures": 0}))
            case planner.Dismiss():
                try:
                    self._send_phase(order, self._address(order))
                except client.NotFoundError:
                    # Its renewal is still to come; it has disposed of nothing.
                    return queue.Wait(_RETRY_BACKOFF.first, _restarted(seen))
                return self._then(order, InstanceChange({"sent": seen.boots, "consecutive_failures": 0}))
            case planner.Dispose():
                return self._dispose(order)
            case planner.Remove():
                self._cloud.revoke_delegation(_caller(instance))
                # Before the row is deleted, so that a worker that takes over in between does it again.
                self._issuer.revoke_instance(instance.id)
                self._cloud.forget(instance.id)
                return queue.Done(InstanceChange(removed=True, ended="done"))
            case planner.Rest():
                return queue.Done()

    def _then(self, order: LoadedInstance, change: InstanceChange) -> queue.Progress[InstanceChange]:
        """Write a change and, if the following step only waits, wait in the same transaction.

        No event is lost meanwhile: a report or an order makes the work due at once, whatever it waits for.
        """
        after = dataclasses.replace(order.instance.snapshot, **change.columns_of_snapshot())
        match planner.plan(after, self._changes.policies_of(order.manifest), order.now):
            case planner.Rest():
                return queue.Done(change)
            case planner.Await(until, True):
                waiting = dataclasses.replace(change, columns={**change.columns, "consecutive_failures": 1})
                return queue.Wait(_pause(until, order.now), waiting)
            case _:
                return queue.Advance(change)

    def _poll(self, order: LoadedInstance, until: float, now: float) -> queue.Progress[InstanceChange]:
        """Poll an awaited orchestrator.

        This detects a crash before the timeout. It also sends the phase again, which makes the orchestrator report again, in
        case its report was lost.
        """
        instance = order.instance
        seen = instance.snapshot
        consecutive_failures = instance.consecutive_failures + 1
        pause = min(max(until - now, 0.0), _POLL_BACKOFF.delay(consecutive_failures - 1))
        application = self._application(instance)
        state = application.attributes.get(deploy.APP_STATE)
        reason = str(application.attributes.get(deploy.APP_STATE_MESSAGE) or "")
        message = f"the orchestrator reports an error: {reason}" if state == "error" else None
        url = application.attributes.get(deploy.APP_URL)
        if url and seen.boots > 0 and seen.sent == seen.boots:
            try:
                self._send_phase(order, str(url).rstrip("/"))
            except client.NotFoundError:
                return queue.Advance(_restarted(seen))
        return queue.Wait(pause, InstanceChange({"consecutive_failures": consecutive_failures}, message=message))

    def _send_phase(self, order: LoadedInstance, address: str) -> None:
        """Send an orchestrator the present phase; it does not repeat a phase that it carries out or has carried out."""
        state = order.instance.snapshot.state
        caller = _caller(order.instance)
        if state == "destroy":
            self._cloud.dismiss(address, caller)
        else:
            attributes = orders.of_phase(order.instance, order.manifest, order.parameters, state)
            self._cloud.phase(address, state, attributes, caller)

    def _application(self, instance: Instance) -> client.Entity:
        try:
            return self._cloud.application(_caller(instance))
        except client.NotFoundError:
            raise _ApplicationGoneError from None

    def _put_application(self, order: LoadedInstance) -> InstanceChange:
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
                orchestrator.ENV_DIGEST: seen.digest,
            },
        }
        if order.manifest.hosting:
            attributes[deploy.APPLICATION_HOSTING] = order.manifest.hosting.value
        if order.manifest.image is not None:
            attributes[deploy.BUNDLE_IMAGE] = order.manifest.image
        else:
            attributes[deploy.BUNDLE_DIGEST] = seen.digest
        title = f"{order.manifest.term}-{instance.id}"
        try:
            self._cloud.put_application(attributes, title, caller)
        except client.ConflictError:
            # Usually it has the bundle, so this is not checked before.
            if order.manifest.image is not None or self._cloud.has_bundle(seen.digest, caller):
                raise
            self._cloud.put_bundle(seen.digest, self._catalogue.archive(seen.digest), caller)
            self._cloud.put_application(attributes, title, caller)
        return InstanceChange({"made": seen.digest, "consecutive_failures": 0})

    def _address(self, order: LoadedInstance) -> str:
        """Return the orchestrator's URL; it changes when its application is restarted elsewhere."""
        if order.instance.address and order.instance.consecutive_failures == 0:
            return order.instance.address
        return self._current_address(order)

    def _current_address(self, order: LoadedInstance) -> str:
        """Return the URL from deploy: after the orchestrator's end, a stored address may be that of another one."""
        try:
            return self._cloud.address(_caller(order.instance))
        except client.NotFoundError:
            raise _ApplicationGoneError from None

    def _activate(self, order: LoadedInstance) -> InstanceChange:
        instance = order.instance
        # It is sent the instance's tokens and secrets, so the address must be current.
        address = self._current_address(order)
        audiences = (tokens.AUDIENCE_CLOUD_CONTROLLER, tokens.AUDIENCE_SERVICE_MANAGER)
        attributes = {
            **orders.of_activation(instance, order.manifest, order.parameters, order.private),
            orchestrator.TOKENS: {
                audience: self._issuer.for_instance(instance.id, tenant_id=instance.tenant, audience=audience)
                for audience in audiences
            },
        }
        self._cloud.activate(address, attributes, _caller(instance))
        return InstanceChange({"activated": instance.snapshot.boots, "address": address, "consecutive_failures": 0})

    def _dispose(self, order: LoadedInstance) -> queue.Progress[InstanceChange]:
        instance = order.instance
        seen = instance.snapshot
        found = self._cloud.dispose(
            seen.generation, instance.service, _caller(instance), start=seen.disposal != "asked"
        )
        state = found.attributes.get(disposal.DISPOSAL_STATE)
        if state == "done":
            audit = json.dumps(found.attributes.get(disposal.DISPOSAL_AUDIT) or [])
            return queue.Advance(InstanceChange({"disposal": "done", "audit": audit, "consecutive_failures": 0}))
        message = str(found.attributes.get(disposal.DISPOSAL_MESSAGE) or "")
        if state == "failed" and seen.disposal == "asked":
            return queue.Advance(
                InstanceChange({"disposal": "failed", "outcome_message": message, "consecutive_failures": 0})
            )
        # Disposal sends no notification. The pauses grow with its duration, so their share of it stays small.
        duration = 0.0 if seen.disposal is None else order.now - seen.begun
        pause = min(_POLL_INTERVAL, max(_RETRY_BACKOFF.first, duration / _DISPOSAL_DIVISOR))
        columns: dict[str, Any] = {
            "disposal": "asked",
            "outcome_message": message,
            "consecutive_failures": instance.consecutive_failures + 1,
        }
        if seen.disposal is None:
            # Disposal has its own timeout and attempts.
            columns |= {"begun": order.now, "attempt": 0}
        return queue.Wait(pause, InstanceChange(columns, message=message or None))

    def save(self, connection: sa.Connection, item: queue.Item, observed: InstanceChange) -> None:
        """Write the result of a step."""
        self._changes.write(connection, item.key, observed)

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """Fail the phase after repeated internal errors, so that the tenant can retry or delete."""
        instance = self._instances.find(connection, item.key)
        if instance is None:
            return
        columns = {"state": "fail", "failed": instance.snapshot.state, "sent": 0, "retry_at": None}
        if instance.snapshot.state in ("active", "inactive", "fail"):
            columns = {}
        self.save(
            connection, item, InstanceChange(columns, enter="fail" if columns else None, ended="failed", message=reason)
        )


class _ApplicationGoneError(Exception):
    """The orchestrator's application does not exist: someone has deleted it."""


def _reset_application(seen: Snapshot) -> InstanceChange:
    """Discard everything that was sent to the present application's orchestrator."""
    activated = -1 if seen.activated else 0
    return InstanceChange({"made": None, "boots": 0, "activated": activated, "sent": 0, "consecutive_failures": 0})


def _restarted(seen: Snapshot) -> InstanceChange:
    """Record a restart of the orchestrator whose renewal is lost or still to come."""
    return InstanceChange({"boots": tables.instances.c.boots + 1, "consecutive_failures": 0}, decided_on=seen)


def _pause(until: float, now: float) -> float:
    """Return the seconds until the first poll."""
    return min(max(until - now, 0.0), _POLL_INTERVAL)


def _caller(instance: Instance) -> Caller:
    return Caller(instance.tenant, instance.id, instance.request_id, instance.snapshot.boots)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
