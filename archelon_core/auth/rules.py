"""The default authorization: one table of grants, from which the policy's checks are derived.

A grant permits a role what a rule stands for, within a scope; everything else is refused. The service manager asks oslo.policy,
whose checks (`DEFAULTS`) are derived from the table; the operator's file may replace them. A check can refer to the caller's
`role`, `project_id`, `instance_id`, `token_kind` and `system_scope`, and to the target's `%(project_id)s`, `%(instance_id)s`,
`%(composed_by)s` and `%(bound_to)s`; a decision depends on nothing else and can be cached. The cloud controller reads the table
itself (`scopes`), since its callers are services, instances and few people.

Every tenant grant is limited to what the tenant owns: queries isolate tenants first, and the policy does so again. An instance's
own token is isolated from the other instances of its tenant in the same way.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, NewType

from .subject import Role

#: Name of a rule, as a service asks for it.
Rule = NewType("Rule", str)


class Scope(enum.Enum):
    """The objects that a grant covers."""

    ANY = "any"
    OWN_TENANT = "own tenant"
    OWN_INSTANCE = "own instance"
    #: What the token's instance ordered, at a path that derives from that instance.
    COMPOSED = "composed"
    #: What exists already and the token's instance uses, by a parameter of its tenant or its manifest.
    BOUND = "bound"
    #: The bundle that the token's instance runs.
    OWN_BUNDLE = "own bundle"


class Grant(NamedTuple):
    """Permits a role what a rule stands for, within a scope."""

    role: str
    rule: Rule
    scope: Scope


# the service manager's -----------------------------------------------------------------------------------------------

ORDER: Final = Rule("instance:order")
READ: Final = Rule("instance:read")
#: Read the values of an instance's secret attributes.
SECRETS: Final = Rule("instance:secrets")
#: Read the secret attributes that the instance's orchestrator reports as outputs, such as an account for its users.
OUTPUTS: Final = Rule("instance:outputs")
UPDATE: Final = Rule("instance:update")
DELETE: Final = Rule("instance:delete")
#: Invoke an action of an instance.
ACT: Final = Rule("instance:act")
#: Report a phase's outcome, and renew tokens.
REPORT: Final = Rule("instance:report")
#: Define a tenant's own mixins, and attach them to instances.
TAG: Final = Rule("instance:tag")
#: List every tenant's instances.
LIST_ALL: Final = Rule("instance:list_all")
#: Move an instance to another trustor after its own is gone.
ADOPT: Final = Rule("instance:adopt")
#: Read the history of an instance, also after its end.
HISTORY: Final = Rule("history:read")
#: Upload bundles, publish them, and roll them out.
PUBLISH: Final = Rule("service:publish")
WITHDRAW: Final = Rule("service:withdraw")
#: Read the archive of a bundle; it belongs to each tenant that has uploaded it.
READ_BUNDLE: Final = Rule("bundle:read")
#: Read what the tenant has published.
READ_PUBLISHED: Final = Rule("published:read")
#: Stop accepting orders, and let running work finish.
DRAIN: Final = Rule("service:drain")
#: All other operation of a service: retry, dispose of, inspect.
OPERATE: Final = Rule("service:operate")

#: The rules that `Policy.check` accepts.
RULES: Final = frozenset(
    {ORDER, READ, SECRETS, OUTPUTS, UPDATE, DELETE, ACT, REPORT, TAG, LIST_ALL, ADOPT, HISTORY}
    | {PUBLISH, WITHDRAW, READ_BUNDLE, READ_PUBLISHED, DRAIN, OPERATE}
)

# the cloud controller's ----------------------------------------------------------------------------------------------

#: Read design's catalogue.
READ_CATALOGUE: Final = Rule("catalogue:read")
#: Have design validate a document.
VALIDATE: Final = Rule("document:validate")
#: Read an instance's stacks, logs, monitors and other objects.
READ_OBJECTS: Final = Rule("object:read")
#: Read the output of an instance's nodes.
READ_OUTPUT: Final = Rule("output:read")
#: Create, change and delete those objects, delegations and disposals.
WRITE_OBJECTS: Final = Rule("object:write")
#: Upload bundles to deploy, run own applications there, and add services to the catalogue.
CLOUD_PUBLISH: Final = Rule("cloud:publish")
#: Read the archive of a bundle at deploy; it belongs to each service manager or tenant that has uploaded it.
CLOUD_BUNDLE: Final = Rule("cloud:bundle")


def _grants(rule: Rule, granted: Mapping[Scope, tuple[str, ...]]) -> list[Grant]:
    return [Grant(role, rule, scope) for scope, roles in granted.items() for role in roles]


_USERS: Final = (Role.TENANT, Role.READ_ONLY)

#: The table.
GRANTS: Final[tuple[Grant, ...]] = (
    *_grants(ORDER, {Scope.OWN_TENANT: (Role.TENANT,), Scope.COMPOSED: (Role.INSTANCE,)}),
    *_grants(
        READ,
        {
            Scope.OWN_TENANT: _USERS,
            Scope.OWN_INSTANCE: (Role.INSTANCE,),
            Scope.COMPOSED: (Role.INSTANCE,),
            Scope.BOUND: (Role.INSTANCE,),
            Scope.ANY: (Role.OPERATOR,),
        },
    ),
    *_grants(
        SECRETS,
        {
            Scope.OWN_TENANT: (Role.TENANT,),
            Scope.OWN_INSTANCE: (Role.INSTANCE,),
            Scope.COMPOSED: (Role.INSTANCE,),
        },
    ),
    *_grants(
        OUTPUTS,
        {
            Scope.OWN_TENANT: (Role.TENANT,),
            Scope.OWN_INSTANCE: (Role.INSTANCE,),
            Scope.COMPOSED: (Role.INSTANCE,),
            Scope.BOUND: (Role.INSTANCE,),
        },
    ),
    *[
        grant
        for rule in (UPDATE, DELETE, ACT)
        for grant in _grants(
            rule,
            {Scope.OWN_TENANT: (Role.TENANT,), Scope.COMPOSED: (Role.INSTANCE,), Scope.ANY: (Role.OPERATOR,)},
        )
    ],
    Grant(Role.INSTANCE, REPORT, Scope.OWN_INSTANCE),
    Grant(Role.TENANT, TAG, Scope.OWN_TENANT),
    Grant(Role.OPERATOR, LIST_ALL, Scope.ANY),
    Grant(Role.OPERATOR, ADOPT, Scope.ANY),
    *_grants(
        HISTORY,
        {Scope.OWN_TENANT: _USERS, Scope.OWN_INSTANCE: (Role.INSTANCE,), Scope.ANY: (Role.OPERATOR,)},
    ),
    Grant(Role.PROVIDER, PUBLISH, Scope.OWN_TENANT),
    Grant(Role.PROVIDER, WITHDRAW, Scope.OWN_TENANT),
    Grant(Role.OPERATOR, WITHDRAW, Scope.ANY),
    Grant(Role.PROVIDER, READ_BUNDLE, Scope.OWN_TENANT),
    Grant(Role.OPERATOR, READ_BUNDLE, Scope.ANY),
    *_grants(READ_PUBLISHED, {Scope.OWN_TENANT: (*_USERS, Role.PROVIDER), Scope.ANY: (Role.OPERATOR,)}),
    Grant(Role.OPERATOR, DRAIN, Scope.ANY),
    Grant(Role.OPERATOR, OPERATE, Scope.ANY),
    *_grants(
        READ_CATALOGUE,
        {Scope.ANY: (*_USERS, Role.PROVIDER, Role.OPERATOR, Role.INSTANCE, Role.SERVICE)},
    ),
    *_grants(
        VALIDATE,
        {
            Scope.OWN_TENANT: (Role.TENANT, Role.PROVIDER, Role.SERVICE),
            Scope.OWN_INSTANCE: (Role.INSTANCE,),
            Scope.ANY: (Role.OPERATOR,),
        },
    ),
    *_grants(
        READ_OBJECTS,
        {
            Scope.OWN_TENANT: (Role.PROVIDER, Role.SERVICE),
            Scope.OWN_INSTANCE: (Role.INSTANCE,),
            Scope.ANY: (Role.OPERATOR,),
        },
    ),
    *_grants(
        READ_OUTPUT,
        {
            # Without read-only: the output may contain the tenant's secrets.
            Scope.OWN_TENANT: (Role.TENANT, Role.PROVIDER, Role.SERVICE),
            Scope.OWN_INSTANCE: (Role.INSTANCE,),
            Scope.ANY: (Role.OPERATOR,),
        },
    ),
    *_grants(
        WRITE_OBJECTS,
        {Scope.OWN_TENANT: (Role.SERVICE,), Scope.OWN_INSTANCE: (Role.INSTANCE,), Scope.ANY: (Role.OPERATOR,)},
    ),
    *_grants(CLOUD_PUBLISH, {Scope.OWN_TENANT: (Role.PROVIDER, Role.SERVICE), Scope.ANY: (Role.OPERATOR,)}),
    *_grants(
        CLOUD_BUNDLE,
        {
            Scope.OWN_TENANT: (Role.PROVIDER, Role.SERVICE),
            Scope.OWN_BUNDLE: (Role.INSTANCE,),
            Scope.ANY: (Role.OPERATOR,),
        },
    ),
)

#: A scope in oslo.policy's language; empty for no condition.
_CHECKS: Final[Mapping[Scope, str]] = {
    Scope.ANY: "",
    Scope.OWN_TENANT: "rule:own_project",
    Scope.OWN_INSTANCE: "rule:own_project and rule:own_instance",
    Scope.COMPOSED: "rule:own_project and rule:composed",
    Scope.BOUND: "rule:own_project and rule:bound",
}


def scopes(rule: Rule, roles: Collection[str]) -> frozenset[Scope]:
    """The scopes within which the roles may do what a rule stands for; empty if they may not."""
    return frozenset(grant.scope for grant in GRANTS if grant.rule == rule and grant.role in roles)


def _check(rule: Rule) -> str:
    """The check of a rule in oslo.policy's language."""
    by_scope: dict[Scope, list[str]] = {}
    for grant in GRANTS:
        if grant.rule == rule:
            by_scope.setdefault(grant.scope, []).append(grant.role)
    checks = []
    for scope, roles in by_scope.items():
        # An operator is more than the role's name: see "operator" below.
        who = " or ".join("rule:operator" if role == Role.OPERATOR else f"role:{role}" for role in roles)
        condition = _CHECKS[scope]
        checks.append(f"(({who}) and {condition})" if condition else f"({who})")
    return " or ".join(checks)


#: Name → check. The rules refer to the first ones.
DEFAULTS: Final[Mapping[str, str]] = {
    "own_project": "project_id:%(project_id)s",
    "own_instance": "instance_id:%(instance_id)s",
    "composed": "instance_id:%(composed_by)s",
    "bound": "instance_id:%(bound_to)s",
    # Keystone's admin role makes an operator only with a system-scoped token, never with a project's.
    "operator": "role:operator or (role:admin and system_scope:all)",
    **{rule: _check(rule) for rule in sorted(RULES)},
}
