"""Who acts for an instance: the OCCI backend of delegations, which design alone keeps.

In: the tenant's own token, once, when the instance is ordered. Out: tokens. For another service manager design signs one itself;
for a platform, and for the cloud controller alone, the identity service issues one in the tenant's name. Whatever the identity
service has to be asked for is asked before the transaction begins.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity

from archelon_api import design, tokens
from archelon_core import auth
from archelon_core.database import Database
from archelon_core.errors import BadRequestError, ConflictError, ForbiddenError, UnavailableError, shown
from occi_service.server.backends import call_first

from ..core import access
from ..core.resource_backend import Context, context
from .delegation_rows import ACTIVE, LOST, DelegationRow, DelegationRows
from .ports import (
    DelegationLostError,
    DelegationRefusedError,
    Delegations,
    IdentityDownError,
    PlatformToken,
)

#: Seconds that an exchanged token lives: one order's worth.
_EXCHANGED: Final = 300
_PLATFORM: Final = design.platform_audience("")
_TYPE: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s#]+#[a-z][a-z0-9_-]*")
_SUBJECT_TOKEN: Final = f"header {design.SUBJECT_TOKEN_HEADER}"


class DelegationBackend(KindBackend, ActionBackend):
    """See the module.

    Args:
        issuer: signs tokens for other service managers; the tokens that it signs for services are the cloud controller's.
        delegations: the identity service.
        rows: where delegations are kept. database: theirs, for looks outside transactions.
    """

    def __init__(
        self, issuer: auth.TokenIssuer, delegations: Delegations, rows: DelegationRows, database: Database
    ) -> None:
        self._issuer = issuer
        self._delegations = delegations
        self._rows = rows
        self._database = database

    # OCCI -------------------------------------------------------------------------------------------------------------

    def create(self, entity: Entity, extras: Any) -> None:
        """Make a delegation, or hang one on another's."""
        instance = _instance(entity)
        if entity.identifier != design.delegation_path(instance):
            wanted = design.delegation_path(instance)
            raise BadRequestError(
                f"{shown(entity.identifier)} is not a delegation's path; PUT it at {shown(wanted)}", "path"
            )
        try:
            auth.instance_subject(instance)
        except ValueError as error:
            raise BadRequestError(str(error), "path") from None
        here = context(extras)
        access.check_acts_for(here.caller, instance)
        access.check_serves(here.caller, "delegating")
        if self._rows.find(here.connection, instance) is not None:
            # Of this tenant's there is none, or it would be replaced.
            raise ConflictError(f"{instance} is an instance of another tenant", "path")
        root, record = instance, ""
        parent = entity.attributes.get(design.DELEGATION_PARENT)
        if parent is not None:
            root = self._root_for(here, str(parent))
        else:
            make = functools.partial(self._delegations.make, extras["subject_token"], here.tenant)
            record = _asked(extras, f"make {instance}", make)
        if not self._rows.add(here.connection, DelegationRow(instance, here.tenant, root, record)):
            raise ConflictError(f"{instance} is an instance of another tenant", "path")
        entity.attributes[design.DELEGATION_STATE] = ACTIVE
        entity.actions = list(entity.kind.actions)

    def _root_for(self, here: Context, parent: str) -> str:
        found = self._rows.root(here.connection, parent)
        if found is None or found.tenant != here.tenant:
            raise ConflictError(
                f"the instance {parent[:64]} has no delegation to hang this one on; order it with a token of your own",
                design.DELEGATION_PARENT,
            )
        return found.instance

    def retrieve(self, entity: Entity, extras: Any) -> None:
        """Show how it stands with the delegation that counts."""
        access.check_may(extras["caller"], auth.rules.READ_OBJECTS, "a delegation")
        with self._database.read() as connection:
            counts = self._rows.root(connection, _instance(entity))
        if counts is not None:
            _show(entity, counts)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """A PUT that was repeated. Had it made a second trust, the sweep finds that nobody has it."""
        here = context(extras)
        instance = _instance(old)
        access.check_acts_for(here.caller, instance)
        if new.attributes.get(design.DELEGATION_PARENT) != old.attributes.get(design.DELEGATION_PARENT):
            raise ConflictError("a delegation's parent stays", design.DELEGATION_PARENT)

    update = replace

    def delete(self, entity: Entity, extras: Any) -> None:
        """End it."""
        here = context(extras)
        instance = _instance(entity)
        access.check_acts_for(here.caller, instance)
        row = self._rows.find(here.connection, instance)
        if row is None:
            return
        others = self._rows.hanging_on(here.connection, instance)
        if others:
            raise ConflictError(
                f"{others} instances that this one is composed of still hang on its delegation; dispose of them first",
                design.DELEGATION_STATE,
            )
        if row.record:
            _asked(extras, f"end {instance}", functools.partial(self._delegations.end, row.record))
        self._rows.remove(here.connection, instance)

    def action(
        self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any
    ) -> Mapping[str, Any] | None:
        """`exchange` or `adopt`."""
        here = context(extras)
        counts = self._rows.root(here.connection, _instance(entity))
        if counts is None:
            raise ConflictError("the delegation is gone", "path")
        if action == design.ADOPT:
            return self._adopt(entity, here, counts, extras)
        access.check_acts_for(here.caller, _instance(entity))
        audience = str(attributes[design.EXCHANGE_AUDIENCE])
        if audience.startswith(_PLATFORM):
            return self._for_platform(entity, here, counts, audience=audience, extras=extras)
        return self._for_service(entity, here, counts, audience)

    # tokens -----------------------------------------------------------------------------------------------------------

    def _for_service(self, entity: Entity, here: Context, counts: DelegationRow, audience: str) -> Mapping[str, Any]:
        if counts.state != ACTIVE:
            raise ConflictError(f"the delegation is {counts.state}: {counts.reason}", design.DELEGATION_STATE)
        # Nothing else may come of an exchange: no token that is for the cloud controller, or for every service of a manager.
        if len(audience) > 512 or _TYPE.fullmatch(audience) is None:
            raise BadRequestError(
                "the audience is the type identifier of the service to be ordered", design.EXCHANGE_AUDIENCE
            )
        token = self._issuer.for_instance(
            _instance(entity),
            tenant_id=auth.TenantId(here.tenant),
            audience=audience,
            lifetime=_EXCHANGED,
            renewable=False,
        )
        return {design.DELEGATION_TOKEN: token}

    def _for_platform(
        self, entity: Entity, here: Context, counts: DelegationRow, *, audience: str, extras: Any
    ) -> Mapping[str, Any]:
        if not self._is_ourselves(here.caller):
            raise ForbiddenError("tokens of a platform are for the cloud controller itself", "token")
        if counts.state == ACTIVE:
            ask = functools.partial(_token_or_loss, self._delegations, counts, audience)
            found: PlatformToken | str = _asked(extras, f"token {counts.record}", ask)
            if isinstance(found, PlatformToken):
                return {design.DELEGATION_TOKEN: found.token, design.DELEGATION_EXPIRES: found.expires}
            counts = dataclasses.replace(counts, state=LOST, reason=found)
            self._rows.change(here.connection, counts)
        # Not an error, which would undo that it is known to be lost.
        _show(entity, counts)
        return {}

    def _is_ourselves(self, caller: auth.Identity) -> bool:
        return (
            access.is_service(caller)
            and caller.issuer == self._issuer.name
            and caller.subject == tokens.subject_of_service_manager(tokens.CLOUD_CONTROLLER)
        )

    def _adopt(self, entity: Entity, here: Context, counts: DelegationRow, extras: Any) -> Mapping[str, Any]:
        if not access.is_operator(here.caller):
            raise ForbiddenError("adopting a delegation is for the role operator", "token")
        token = extras["subject_token"]
        if token is None:
            raise BadRequestError(
                "adopting needs a token of your own for the instance's project", f"header {design.SUBJECT_TOKEN_HEADER}"
            )
        make = functools.partial(self._delegations.make, token, counts.tenant)
        record = _asked(extras, f"adopt {counts.instance}", make)
        if counts.record and counts.record != record:
            _asked(extras, f"end {counts.record}", functools.partial(self._delegations.end, counts.record))
        counts = dataclasses.replace(counts, record=record, state=ACTIVE, reason="")
        self._rows.change(here.connection, counts)
        _show(entity, counts)
        return {}


def _instance(entity: Entity) -> str:
    return entity.identifier.rpartition("/")[2]


def _show(entity: Entity, counts: DelegationRow) -> None:
    entity.attributes[design.DELEGATION_STATE] = counts.state
    if counts.reason:
        entity.attributes[design.DELEGATION_REASON] = counts.reason
    else:
        entity.attributes.pop(design.DELEGATION_REASON, None)


def _token_or_loss(delegations: Delegations, counts: DelegationRow, audience: str) -> PlatformToken | str:
    """A token, or why there is none any more: the answer is to be written down, and an error would undo that."""
    try:
        return delegations.token(counts.delegation, audience)
    except DelegationLostError as error:
        return str(error)


def _asked(extras: Any, key: str, call: Callable[[], Any]) -> Any:
    """What the identity service says, asked outside the transaction."""

    def made() -> Any:
        try:
            return call()
        except DelegationRefusedError as error:
            raise ForbiddenError(str(error), _SUBJECT_TOKEN) from None
        except IdentityDownError as error:
            raise UnavailableError(f"the identity service cannot be asked: {error}", retry_after=5) from None

    return call_first(extras, key, made)
