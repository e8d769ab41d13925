"""Authorization: oslo.policy over the rules in `rules`, with cached decisions.

One decision by oslo.policy costs some 50 µs, about as much as the database read that follows it. So decisions are cached by
everything that they can depend on; `policy_file` makes sure that a rule can refer to nothing else. The file is read once, at
start: a policy that changed at run time would be a second thing to reason about, and replicas restart one by one.

Import this module only where a service starts, not from a client: oslo.policy takes about 0.13 s to load.
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

#: Roles that a refusal may name as missing, the least powerful first.
_NAMEABLE: Final = (Role.READ_ONLY, Role.TENANT, Role.PROVIDER, Role.OPERATOR, Role.INSTANCE, Role.SERVICE)

_Key = tuple[str, frozenset[str], TokenKind, str, str | None, bool, "Target"]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The object of an operation; None for no restriction to an owner.

    Attributes:
        tenant_id: its owner.
        instance_id: the instance.
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
        decisions: size of the cache. A tenant with one set of roles needs about one per rule; an instance token, one per rule
            and scope.

    Raises:
        PolicyFileError: the file is unusable; the text names file, line and remedy.
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
            ValueError: no such rule; a programming error.
        """
        refusal = self._refusal(rule, identity, target)
        if refusal is not None:
            raise ForbiddenError(refusal, where=rule)

    def allows(self, rule: Rule, identity: Identity, target: Target = NOTHING) -> bool:
        """Whether `identity` may do what `rule` stands for to `target`. Raises ValueError if there is no such rule."""
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
        attributes, caller = _attributes(target), _credentials(identity)
        refusal = None
        if not self._allows(rule, attributes, caller):
            enough = [role for role in _NAMEABLE if self._allows(rule, attributes, {**caller, "roles": [role]})]
            refusal = _refusal(rule, enough)
        with self._lock:
            while len(self._decisions) >= self._limit:
                del self._decisions[next(iter(self._decisions))]
            self._decisions[key] = refusal
        return refusal

    def _allows(self, rule: Rule, attributes: dict[str, str], caller: dict[str, object]) -> bool:
        # enforce may add to the credentials, hence the copy.
        return bool(self._enforcer.authorize(rule, attributes, dict(caller)))


def _enforcer(checks: Mapping[str, str], path: Path | None) -> oslo.Enforcer:
    # An empty configuration: by default, oslo.config reads /etc/<program> and the command line.
    configuration = cfg.ConfigOpts()
    configuration([], project="archelon", default_config_files=[], default_config_dirs=[])
    # use_conf=False: otherwise oslo.policy checks files on every single decision.
    enforcer = oslo.Enforcer(configuration, use_conf=False)
    # Not Enforcer(default_rule=...): a missing rule is an error.
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
    # An absent name matches nothing; a present and empty one would match an empty attribute of the target.
    optional = {
        "project_id": identity.tenant_id,
        "instance_id": identity.instance_id,
        "system_scope": "all" if identity.system_scope else None,
    }
    required = {"roles": sorted(identity.roles), "token_kind": identity.kind.value}
    return {**required, **{name: value for name, value in optional.items() if value}}


def _attributes(target: Target) -> dict[str, str]:
    attributes = {
        "project_id": target.tenant_id,
        "instance_id": target.instance_id,
        "composed_by": target.composed_by,
        "bound_to": target.bound_to,
    }
    return {name: value for name, value in attributes.items() if value}


def _refusal(rule: Rule, enough: list[str]) -> str:
    people = [role for role in enough if role in Role.GRANTABLE]
    if people:
        return f"{rule} needs the role {' or '.join(people)} here."
    if enough:
        return f"{rule} is for tokens with the role {' or '.join(enough)}."
    return f"{rule} is not allowed here with any role of this token's project."
