"""The OCCI backend of delegations: who acts for an instance. Only design stores them.

Input is the tenant's own token, once, when the instance is ordered. Output is tokens: design itself signs those for another
service manager; the identity service issues those for a platform, in the tenant's name, and only for the cloud controller. Calls
to the identity service are made before the transaction begins.
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
from ..core.resource_backend import RequestContext, context
from .delegation_rows import ACTIVE, LOST, DelegationRow, DelegationRows
from .ports import DelegationLostError, DelegationRefusedError, Delegations, IdentityDownError, PlatformToken

#: Lifetime of an exchanged token in seconds, enough for one order.
_EXCHANGED: Final = 300
_PLATFORM: Final = design.platform_audience("")
_TYPE: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s#]+#[a-z][a-z0-9_-]*")
_SUBJECT_TOKEN: Final = f"header {design.SUBJECT_TOKEN_HEADER}"


class DelegationBackend(KindBackend, ActionBackend):
    """See the module.

    The issuer signs tokens for other service managers, as the cloud controller. Reads outside transactions use `database`.
    """

    def __init__(
        self, issuer: auth.TokenIssuer, delegations: Delegations, rows: DelegationRows, database: Database
    ) -> None:
        self._issuer = issuer
        self._delegations = delegations
        self._rows = rows
        self._database = database

    def create(self, entity: Entity, extras: Any) -> None:
        """Create a delegation, or attach one to a parent's. Raises HttpError."""
        instance = _instance(entity)
        if entity.identifier != design.delegation_path(instance):
            wanted = design.delegation_path(instance)
            raise BadRequestError(f"{shown(entity.identifier)} is not its path; PUT it at {shown(wanted)}", "path")
        try:
            auth.instance_subject(instance)
        except ValueError as error:
            raise BadRequestError(str(error), "path") from None
        request = context(extras)
        access.check_acts_for(request.caller, instance)
        access.check_serves(request.caller, "delegating")
        if self._rows.find(request.connection, instance) is not None:
            # The caller's tenant has none, or this would be a replace.
            raise ConflictError(f"{instance} is an instance of another tenant", "path")
        root, record = instance, ""
        parent = entity.attributes.get(design.DELEGATION_PARENT)
        if parent is not None:
            root = self._root_for(request, str(parent))
        else:
            make = functools.partial(self._delegations.make, extras["subject_token"], request.tenant)
            record = _asked(extras, f"make {instance}", make)
        if not self._rows.add(request.connection, DelegationRow(instance, request.tenant, root, record)):
            raise ConflictError(f"{instance} is an instance of another tenant", "path")
        entity.attributes[design.DELEGATION_STATE] = ACTIVE
        entity.actions = list(entity.kind.actions)

    def _root_for(self, request: RequestContext, parent: str) -> str:
        found = self._rows.root(request.connection, parent)
        if found is None or found.tenant != request.tenant:
            raise ConflictError(
                f"the instance {parent[:64]} has no delegation to attach this one to; order it with a token of your own",
                design.DELEGATION_PARENT,
            )
        return found.instance

    def retrieve(self, entity: Entity, extras: Any) -> None:
        """Show the state of the root delegation."""
        access.check_may(extras["caller"], auth.rules.READ_OBJECTS, "a delegation")
        with self._database.read() as connection:
            root = self._rows.root(connection, _instance(entity))
        if root is not None:
            _show(entity, root)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """Accept a repeated PUT. If it created a second trust, orphan removal ends that."""
        request = context(extras)
        instance = _instance(old)
        access.check_acts_for(request.caller, instance)
        if new.attributes.get(design.DELEGATION_PARENT) != old.attributes.get(design.DELEGATION_PARENT):
            raise ConflictError("a delegation's parent is immutable", design.DELEGATION_PARENT)

    update = replace

    def delete(self, entity: Entity, extras: Any) -> None:
        """End it."""
        request = context(extras)
        instance = _instance(entity)
        access.check_acts_for(request.caller, instance)
        row = self._rows.find(request.connection, instance)
        if row is None:
            return
        others = self._rows.count_dependents(request.connection, instance)
        if others:
            raise ConflictError(
                f"{others} instances that this one is composed of still use its delegation; dispose of them first",
                design.DELEGATION_STATE,
            )
        if row.record:
            _asked(extras, f"end {instance}", functools.partial(self._delegations.end, row.record))
        self._rows.remove(request.connection, instance)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> Mapping[str, Any]:
        """Perform `exchange` or `adopt`."""
        request = context(extras)
        root = self._rows.root(request.connection, _instance(entity))
        if root is None:
            raise ConflictError("the delegation is gone", "path")
        if action == design.ADOPT:
            return self._adopt(entity, request, root, extras)
        access.check_acts_for(request.caller, _instance(entity))
        audience = str(attributes[design.EXCHANGE_AUDIENCE])
        if audience.startswith(_PLATFORM):
            return self._for_platform(entity, request, root, audience=audience, extras=extras)
        return self._for_service(entity, request, root, audience)

    def _for_service(
        self, entity: Entity, request: RequestContext, root: DelegationRow, audience: str
    ) -> Mapping[str, Any]:
        if root.state != ACTIVE:
            raise ConflictError(f"the delegation is {root.state}: {root.reason}", design.DELEGATION_STATE)
        # An exchange returns no token for the cloud controller, or for all services of a service manager.
        if len(audience) > 512 or _TYPE.fullmatch(audience) is None:
            raise BadRequestError("the audience must be a service's type identifier", design.EXCHANGE_AUDIENCE)
        token = self._issuer.for_instance(
            _instance(entity),
            tenant_id=auth.TenantId(request.tenant),
            audience=audience,
            lifetime=_EXCHANGED,
            renewable=False,
        )
        return {design.DELEGATION_TOKEN: token}

    def _for_platform(
        self, entity: Entity, request: RequestContext, root: DelegationRow, *, audience: str, extras: Any
    ) -> Mapping[str, Any]:
        if not self._is_ourselves(request.caller):
            raise ForbiddenError("only the cloud controller itself may get tokens of a platform", "token")
        if root.state == ACTIVE:
            ask = functools.partial(_token_or_loss, self._delegations, root, audience)
            found: PlatformToken | str = _asked(extras, f"token {root.record}", ask)
            if isinstance(found, PlatformToken):
                return {design.DELEGATION_TOKEN: found.token, design.DELEGATION_EXPIRES: found.expires}
            root = dataclasses.replace(root, state=LOST, reason=found)
            self._rows.change(request.connection, root)
        # Not an error, which would roll back the lost state.
        _show(entity, root)
        return {}

    def _is_ourselves(self, caller: auth.Identity) -> bool:
        return (
            access.is_service(caller)
            and caller.issuer == self._issuer.name
            and caller.subject == tokens.subject_of_service_manager(tokens.CLOUD_CONTROLLER)
        )

    def _adopt(self, entity: Entity, request: RequestContext, root: DelegationRow, extras: Any) -> Mapping[str, Any]:
        if not access.is_operator(request.caller):
            raise ForbiddenError("adopting a delegation requires the role operator", "token")
        token = extras["subject_token"]
        if token is None:
            raise BadRequestError("adopting requires a token of your own for the instance's project", _SUBJECT_TOKEN)
        make = functools.partial(self._delegations.make, token, root.tenant)
        record = _asked(extras, f"adopt {root.instance}", make)
        if root.record and root.record != record:
            _asked(extras, f"end {root.record}", functools.partial(self._delegations.end, root.record))
        root = dataclasses.replace(root, record=record, state=ACTIVE, reason="")
        self._rows.change(request.connection, root)
        _show(entity, root)
        return {}


def _instance(entity: Entity) -> str:
    return entity.identifier.rpartition("/")[2]


def _show(entity: Entity, root: DelegationRow) -> None:
    entity.attributes[design.DELEGATION_STATE] = root.state
    if root.reason:
        entity.attributes[design.DELEGATION_REASON] = root.reason
    else:
        entity.attributes.pop(design.DELEGATION_REASON, None)


def _token_or_loss(delegations: Delegations, root: DelegationRow, audience: str) -> PlatformToken | str:
    """Return a token, or why the delegation is lost: an error would roll back storing that."""
    try:
        return delegations.token(root.delegation, audience)
    except DelegationLostError as error:
        return str(error)


def _asked(extras: Any, key: str, call: Callable[[], Any]) -> Any:
    """Return the result of a call to the identity service, made outside the transaction."""

    def translated() -> Any:
        try:
            return call()
        except DelegationRefusedError as error:
            raise ForbiddenError(str(error), _SUBJECT_TOKEN) from None
        except IdentityDownError as error:
            raise UnavailableError(f"the identity service is unavailable: {error}", retry_after=5) from None

    return call_first(extras, key, translated)
