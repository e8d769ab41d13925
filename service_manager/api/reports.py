"""Reports of orchestrators about phases, and the renewal of their tokens at a start (`renew`).

Both are actions of the instance's entity and accept only the instance's own token. They advance the instance as far as no call
is needed, and wake the reconciler for the rest.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import urlsplit

import sqlalchemy as sa
from occi.backend import ActionBackend
from occi.core_model import Action, Entity

from archelon_api import names, tokens
from archelon_api import service_manager as wire
from archelon_core.auth import Identity, TokenIssuer, TokenKind, rules
from archelon_core.auth.policy import Policy, Target
from archelon_core.encryption import Cipher
from archelon_core.errors import BadRequestError, ConflictError, ForbiddenError, TooLargeError
from occi_service.model import type_id
from occi_service.renderings.grammar import ATTRIBUTE_NAME

from ..lifecycle import planner
from ..lifecycle.changes import Advance, Changes
from ..lifecycle.health import Condition, InstanceHealth
from ..lifecycle.order import of_activation, with_phases
from ..store.instances import LINK_KINDS, Instance, Instances, parameters_of, set_links, show_state
from ..store.services import Catalogue
from ..store.start_tokens import START_AUDIENCE
from .orders import caller_of, connection_of

_STACK: Final = ("occi.mcn.stack.state", "occi.mcn.stack.id")
#: Limits of outputs and links per instance. A stack has tens.
_MAX_OUTPUTS: Final = 500
_MAX_LINKS: Final = 500
#: Of which to other instances: as many as a manifest's `depends_on` has.
_MAX_DEPENDENCIES: Final = 100
_MAX_TARGET: Final = 2000
_TYPE: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s#\"<>\\]{1,400}#[a-z][a-z0-9_-]{0,60}")


class ReportBackend(ActionBackend):
    """The actions `report` and `renew`.

    Args:
        issuers: the issuers of this service manager's own instance tokens.
    """

    def __init__(
        self,
        instances: Instances,
        catalogue: Catalogue,
        *,
        changes: Changes,
        health: InstanceHealth,
        cipher: Cipher,
        issuer: TokenIssuer,
        issuers: frozenset[str],
        policy: Policy,
    ) -> None:
        self._health = health
        self._policy = policy
        self._instances = instances
        self._catalogue = catalogue
        self._changes = changes
        self._issuers = issuers
        self._cipher = cipher
        self._issuer = issuer

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> Any:
        """Store a report, or return fresh tokens."""
        identity = caller_of(extras)
        instance = self._own(entity, identity, extras)
        if action == wire.RENEW:
            return self._renew(entity, instance, attributes.get(wire.RENEW_BUNDLE), extras)
        if identity.audience == START_AUDIENCE:
            raise ForbiddenError(
                "a start token is valid only for renew; report with a token that renew returns", "token"
            )
        self._report(entity, instance, attributes, extras)
        return None

    def _own(self, entity: Entity, identity: Identity, extras: Any) -> Instance:
        """Return the instance if the caller is its orchestrator. Raises ForbiddenError."""
        found = None
        # Another issuer of instance tokens may permit orders here, but not act for an instance of this service manager.
        ours = identity.kind is TokenKind.INSTANCE and identity.issuer in self._issuers
        if ours and identity.instance_id is not None:
            found = self._instances.find(connection_of(extras), identity.instance_id, lock=True)
        if found is None or found.path != entity.identifier or found.tenant != identity.tenant_id:
            raise ForbiddenError("only the instance's own orchestrator may do this", "token")
        self._policy.check(rules.REPORT, identity, Target(found.tenant, found.id))
        return found

    def _renew(self, entity: Entity, instance: Instance, digest: Any, extras: Any) -> dict[str, Any]:
        order = {}
        if caller_of(extras).audience == START_AUDIENCE:
            # A start token is used at a start: the new process has to get everything again.
            order = self._restart(entity, instance, digest, connection_of(extras))
        fresh = {
            audience: self._issuer.for_instance(instance.id, tenant_id=instance.tenant, audience=audience)
            for audience in (tokens.AUDIENCE_SERVICE_MANAGER, tokens.AUDIENCE_CLOUD_CONTROLLER)
        }
        return {wire.TOKENS: fresh, **order}

    def _restart(
        self, entity: Entity, instance: Instance, digest: str | None, connection: sa.Connection
    ) -> dict[str, Any]:
        """Record a start. Returns the order, if the orchestrator runs this bundle, takes it in the answer, and is to have it."""
        seen = instance.snapshot
        advance = Advance(instance, entity)
        advance.change({"boots": seen.boots + 1, "consecutive_failures": 0})
        # One that still runs an earlier bundle is about to be replaced.
        takes = digest == seen.digest
        if takes and seen.made is None:
            # It proves that its application was made, which the worker has not written yet.
            advance.change({"made": digest})
        left = self._changes.advance(connection, advance, answers=takes)
        self._changes.write_advance(connection, advance, left)
        if advance.phases is None:
            return {}
        private = "{}"
        if instance.private:
            private = self._cipher.decrypt(instance.private, context=(instance.id, "private"))
        manifest = self._catalogue.manifest(seen.digest, connection)
        parameters = parameters_of(entity, instance.outputs)
        activation = of_activation(advance.instance, manifest, parameters, json.loads(private))
        return {wire.ORDER: with_phases(activation, manifest, advance.phases)}

    def _report(self, entity: Entity, instance: Instance, report: dict[str, Any], extras: Any) -> None:
        seen = instance.snapshot
        generation = report[names.GENERATION]
        # DELETE carries no generation: the orchestrator reports `destroy` under the last one that it knows.
        destroying = report.get(wire.PHASE) == seen.state == "destroy"
        if generation < seen.phase_generation and not destroying:
            raise ConflictError(
                f"the report is about generation {generation}; the order is at {seen.phase_generation}",
                names.GENERATION,
            )
        connection = connection_of(extras)
        advance = Advance(instance, entity)
        if wire.PRIVATE in report:
            private = json.dumps(report[wire.PRIVATE], separators=(",", ":"))
            if len(private.encode()) > wire.PRIVATE_LIMIT:
                raise TooLargeError(f"private has more than {wire.PRIVATE_LIMIT} bytes", wire.PRIVATE)
            advance.change({"private": self._cipher.encrypt(private, context=(instance.id, "private"))})
        if wire.OUTPUTS in report:
            advance.change({"outputs": json.dumps(self._set_outputs(entity, instance, report[wire.OUTPUTS]))})
        for name in _STACK:
            if name in report:
                entity.attributes[name] = report[name]
        if wire.REPORTED_LINKS in report:
            advance.change({"dependencies": self._set_links(entity, instance, report[wire.REPORTED_LINKS], extras)})
        if wire.HEALTH in report:
            own = Condition(str(report[wire.HEALTH]), str(report.get(wire.HEALTH_MESSAGE) or "")[:1000])
            # After the links, which say what its suppliers are.
            advance.change(
                self._health.show(connection, advance.instance, entity, advance.edits, state=seen.state, own=own)
            )
        left = self._advance(connection, advance, report)
        self._changes.write_advance(connection, advance, left)

    def _advance(self, connection: sa.Connection, advance: Advance, report: dict[str, Any]) -> planner.Step | None:
        """Record the outcome of a phase, and take the following steps. Returns the first that is left; None if none ended."""
        phase, state = report.get(wire.PHASE), report.get(wire.PHASE_STATE)
        seen = advance.instance.snapshot
        deployed = report.get(wire.PHASE_DEPLOYED)
        left: planner.Step | None = None
        if deployed is not None and phase == "provision" and seen.state == "deploy" and seen.outcome is None:
            now = self._changes.clock()
            advance.change({"outcome": "done", "outcome_message": ""})
            # It goes on with `provision` by itself, unless that is ordered with other parameters by now.
            taken = (phase,) if report[names.GENERATION] >= seen.generation else ()
            left = self._changes.advance(connection, advance, taken=taken, at=min(now, max(seen.begun, now - deployed)))
            seen = advance.instance.snapshot
            if not taken:
                return left
        message = str(report.get(wire.PHASE_MESSAGE) or "")[:1000]
        # During the pause before the next attempt, a failure is a repeated report of the one that caused the pause.
        repeated = state == "failed" and seen.retry_at is not None and self._changes.clock() < seen.retry_at
        if phase is None or phase != seen.state or seen.outcome is not None or repeated:
            return left
        if state in ("done", "failed"):
            refused = state == "failed" and report.get(wire.PHASE_RETRY) is False
            advance.change({"outcome": "refused" if refused else state, "outcome_message": message})
            left = self._changes.advance(connection, advance)
        elif message:
            show_state(advance.entity, str(advance.entity.attributes[wire.STATE]), message)
        return left

    def _set_outputs(self, entity: Entity, instance: Instance, outputs: dict[str, Any]) -> list[str]:
        if len(outputs) > _MAX_OUTPUTS:
            raise TooLargeError(f"more than {_MAX_OUTPUTS} outputs", wire.OUTPUTS)
        named = {output_name(name, entity): value for name, value in outputs.items() if value is not None}
        for name in instance.outputs:
            if name not in named:
                entity.attributes.pop(name, None)
        entity.attributes |= named
        return sorted(named)

    def _set_links(self, entity: Entity, instance: Instance, reported: list[Any], extras: Any) -> int:
        if len(reported) > _MAX_LINKS:
            raise TooLargeError(f"more than {_MAX_LINKS} links", wire.REPORTED_LINKS)
        for index, each in enumerate(reported):
            _check_link(each, f"{wire.REPORTED_LINKS}[{index}]")
        if sum(each["kind"] == type_id(wire.DEPENDENCY) for each in reported) > _MAX_DEPENDENCIES:
            raise TooLargeError(f"more than {_MAX_DEPENDENCIES} links to other instances", wire.REPORTED_LINKS)
        return set_links(self._instances, connection_of(extras), instance, entity=entity, reported=reported)


def _check_link(link: Any, where: str) -> None:
    if not isinstance(link, dict):
        raise BadRequestError("expected an object with target, kind and title", where)
    target = link.get("target")
    if not isinstance(target, str) or len(target) > _MAX_TARGET or not _is_absolute(target):
        raise BadRequestError(f"expected a target that is an absolute URI of at most {_MAX_TARGET} characters", where)
    target_kind = link.get("target_kind")
    if target_kind is not None and (not isinstance(target_kind, str) or _TYPE.fullmatch(target_kind) is None):
        raise BadRequestError("expected a target_kind that is a type identifier, scheme and term", where)
    if link.get("kind") not in tuple(LINK_KINDS):
        raise BadRequestError(f"expected a kind that is one of {', '.join(LINK_KINDS)}", where)


def _is_absolute(uri: str) -> bool:
    try:
        return "://" in uri and urlsplit(uri) is not None
    except ValueError:
        return False


def output_name(name: str, entity: Entity) -> str:
    """Return the attribute that shows an output: its own name if an orchestrator may set that, else `output.<name>`."""
    declared = entity.kind.attributes.get(name)
    reserved = name in wire.INSTANCE_ATTRIBUTES or name.startswith(("occi.", names.ATTRIBUTE_PREFIX))
    if ATTRIBUTE_NAME.fullmatch(name) is not None and not reserved and (declared is None or declared == "immutable"):
        return name
    legal = "".join([character if ATTRIBUTE_NAME.fullmatch(f"a{character}") else "_" for character in name])
    return f"output.{legal}"
