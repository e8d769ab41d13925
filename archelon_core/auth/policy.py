"""Who may do what: oslo.policy over the rules in `rules`, asked once for each combination and remembered.

One decision by oslo.policy costs some 50 µs, about as much as the database read that follows it. So decisions are kept by
everything that they can depend on; `policy_file` sees to it that a rule can ask about nothing else. The file is read once,
at start: a policy that changes while a service runs would be a second thing to reason about, and replicas restart one by one.

Import this module where a service starts, not from a client: oslo.policy takes about 0.13 s to load.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from oslo_config import cfg
from oslo_policy import policy as oslo

from ..errors import ForbiddenError
from . import policy_file, rules
from .policy_file import PolicyFileError
from .rules import Rule
from .subject import Identity, Role, TenantId, TokenKind

#: Roles that a refusal may name as the one that is missing, the least powerful first.
_NAMEABLE: Final = (Role.READ_ONLY, Role.TENANT, Role.PROVIDER, Role.OPERATOR, Role.INSTANCE, Role.SERVICE)

_Key = tuple[str, frozenset[str], TokenKind, str, str | None, bool, "Target"]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What an operation is about. None where the operation is about no one's.

    Attributes:
        tenant_id: whose it is.
        instance_id: which instance.
        composed_by: the instance that ordered it.
        bound_to: an instance that uses it without having ordered it.
    """

    tenant_id: TenantId | None = None
    instance_id: str | None = None
    composed_by: str | None = None
    bound_to: str | None = None


#: For operations on a service as a whole.
NOTHING: Final = Target()


class Policy:
    """The rules in force. Threads share one.

    Args:
        path: the operator's file, whose rules replace defaults of the same name; None for the defaults alone.
        decisions: how many are remembered. A tenant with one set of roles needs about one a rule; an instance token, one a
            rule and scope.

    Raises:
        PolicyFileError: the file can't be used; the text names file, line and remedy.
    """

    def __init__(self, path: Path | None = None, *, decisions: int = 16_384) -> None:
        checks: Mapping[str, str] = dict(rules.DEFAULTS)
        if path is not None:
            checks = {**checks, **policy_file.read(path)}
        self._enforcer = _enforcer(checks, path)
        self._limit = decisions
        self._lock = threading.Lock()
        self._decisions: dict[_Key, str | None] = {}

    def check(self, rule: Rule, identity: Identity, target: Target = NOTHING) -> None:
        """Return if `identity` may do what `rule` stands for to `target`.

        Raises:
            ForbiddenError: it may not; the message names the roles that would allow it.
            ValueError: there is no such rule, which is a mistake in the program.
        """
        refusal = self._refusal(rule, identity, target)
        if refusal is not None:
            raise ForbiddenError(refusal, where=rule)

    def allows(self, rule: Rule, identity: Identity, target: Target = NOTHING) -> bool:
        """Whether `identity` may do what `rule` stands for to `target`. Raises ValueError where there is no such rule."""
        return self._refusal(rule, identity, target) is None

    def _refusal(self, rule: Rule, identity: Identity, target: Target) -> str | None:
        key = (
            rule,
            identity.roles,
            identity.kind,
            identity.tenant_id,
            identity.instance_id,
            identity.system_scope,
            target,
        )
        try:
            return self._decisions[key]
        except KeyError:
            return self._decide(key, rule, identity, target=target)

    def _decide(self, key: _Key, rule: Rule, identity: Identity, *, target: Target) -> str | None:
        if rule not in rules.RULES:
            raise ValueError(f"the policy has no rule {rule!r}")
        about = _mapping(target)
        caller = _credentials(identity)
        refusal = None
        if not self._allows(rule, about, caller):
            enough = [role for role in _NAMEABLE if self._allows(rule, about, {**caller, "roles": [role]})]
            refusal = _refusal(rule, enough)
        with self._lock:
            while len(self._decisions) >= self._limit:
                del self._decisions[next(iter(self._decisions))]
            self._decisions[key] = refusal
        return refusal

    def _allows(self, rule: Rule, about: dict[str, str], caller: dict[str, object]) -> bool:
        # enforce may add to the credentials, hence the copy.
        return bool(self._enforcer.authorize(rule, about, dict(caller)))


def _enforcer(checks: Mapping[str, str], path: Path | None) -> oslo.Enforcer:
    # A configuration of its own, from no file: oslo.config would else look for /etc/<program> and the command line.
    configuration = cfg.ConfigOpts()
    configuration([], project="archelon", default_config_files=[], default_config_dirs=[])
    # use_conf=False: with it, oslo.policy looks at files on every single decision.
    enforcer = oslo.Enforcer(configuration, use_conf=False)
    # No name: a rule that is missing is an error, not a "default" rule.
    try:
        policy_file.check_circles(checks)
    except ValueError as error:
        raise PolicyFileError(f"{path}: {error}") from None
    parsed = {name: policy_file.check_tree(name, text) for name, text in checks.items()}
    enforcer.set_rules(oslo.Rules(parsed), use_conf=False)
    for name in rules.RULES:
        enforcer.register_default(oslo.RuleDefault(name, checks[name]))
    return enforcer


def _credentials(identity: Identity) -> dict[str, object]:
    credentials: dict[str, object] = {"roles": sorted(identity.roles), "token_kind": identity.kind.value}
    # A name that is absent matches nothing; one that is present and empty would match a target's emptiness.
    if identity.tenant_id:
        credentials["project_id"] = identity.tenant_id
    if identity.instance_id:
        credentials["instance_id"] = identity.instance_id
    if identity.system_scope:
        credentials["system_scope"] = "all"
    return credentials


def _mapping(target: Target) -> dict[str, str]:
    about: dict[str, str] = {}
    if target.tenant_id:
        about["project_id"] = target.tenant_id
    if target.instance_id:
        about["instance_id"] = target.instance_id
    if target.composed_by:
        about["composed_by"] = target.composed_by
    if target.bound_to:
        about["bound_to"] = target.bound_to
    return about


def _refusal(rule: Rule, enough: list[str]) -> str:
    people = [role for role in enough if role in Role.GRANTABLE]
    if people:
        return f"{rule} needs the role {' or '.join(people)} here."
    if enough:
        return f"{rule} is for tokens with the role {' or '.join(enough)}."
    return f"{rule} is not allowed here with any role of this token's project."
