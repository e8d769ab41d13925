"""Who may do what, unless the operator's file says otherwise: one table of grants, from which the policy's checks are derived.

A grant lets a role do what a rule stands for, within a scope; what no grant allows is refused. The service manager asks
oslo.policy, whose checks (`DEFAULTS`) come of the table and may be replaced by the operator's file. Such a check can ask about
the caller's `role`, `project_id`, `instance_id`, `token_kind` and `system_scope`, and of the target `%(project_id)s`,
`%(instance_id)s`, `%(composed_by)s` and `%(bound_to)s`; nothing else, so that a decision depends on nothing else and can be
kept. The cloud controller asks the table itself (`scopes`), since its callers are services and instances and few people.

Owning is always part of a tenant's grant: tenants are isolated in queries first, and here again. So are the instances of one
tenant from one another, where an instance's own token asks.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, NewType

from .subject import Role

#: A rule that a service asks about.
Rule = NewType("Rule", str)


class Scope(enum.Enum):
    """What a grant is about."""

    ANY = "any"
    OWN_TENANT = "own tenant"
    OWN_INSTANCE = "own instance"
    #: What the token's instance ordered: it lies at a path that derives from that instance.
    COMPOSED = "composed"
    #: What exists already and the token's instance uses, as its tenant or its manifest says.
    BOUND = "bound"
    #: The bundle that the token's instance runs.
    OWN_BUNDLE = "own bundle"


class Grant(NamedTuple):
    """A role may do what a rule stands for, within a scope."""

    role: str
    rule: Rule
    scope: Scope


# the service manager's -----------------------------------------------------------------------------------------------

ORDER: Final = Rule("instance:order")
READ: Final = Rule("instance:read")
#: See the values of an instance's secret attributes.
SECRETS: Final = Rule("instance:secrets")
#: See the values of those secret attributes that the instance's orchestrator put out, such as an account for who uses it.
OUTPUTS: Final = Rule("instance:outputs")
UPDATE: Final = Rule("instance:update")
DELETE: Final = Rule("instance:delete")
#: Invoke an action of an instance.
ACT: Final = Rule("instance:act")
#: Report a phase's outcome, and renew tokens.
REPORT: Final = Rule("instance:report")
#: Define mixins of a tenant's own, and attach them to instances.
TAG: Final = Rule("instance:tag")
#: See every tenant's instances.
LIST_ALL: Final = Rule("instance:list_all")
#: Re-home an instance whose trustor is gone.
ADOPT: Final = Rule("instance:adopt")
#: Read the history of an instance, after its end too.
HISTORY: Final = Rule("history:read")
#: Upload bundles, publish them, and roll them out.
PUBLISH: Final = Rule("service:publish")
WITHDRAW: Final = Rule("service:withdraw")
#: Read the archive of a bundle; it belongs to each tenant that has uploaded it.
READ_BUNDLE: Final = Rule("bundle:read")
#: Read what the tenant has published.
READ_PUBLISHED: Final = Rule("published:read")
#: Stop taking orders, and let what runs finish.
DRAIN: Final = Rule("service:drain")
#: Everything else that keeps a service going: retry, dispose of, look into.
OPERATE: Final = Rule("service:operate")

#: What `Policy.check` can be asked about.
RULES: Final = frozenset(
    {
        ORDER,
        READ,
        SECRETS,
        OUTPUTS,
        UPDATE,
        DELETE,
        ACT,
        REPORT,
        TAG,
        LIST_ALL,
        ADOPT,
        HISTORY,
        PUBLISH,
        WITHDRAW,
        READ_BUNDLE,
        READ_PUBLISHED,
        DRAIN,
        OPERATE,
    }
)

# the cloud controller's ----------------------------------------------------------------------------------------------

#: Read design's catalogue.
READ_CATALOGUE: Final = Rule("catalogue:read")
#: Have design check a document.
VALIDATE: Final = Rule("document:validate")
#: Read an instance's stacks, logs, monitors and the like.
READ_OBJECTS: Final = Rule("object:read")
#: Make, change and remove them, and delegations and disposals.
ACT_FOR: Final = Rule("object:write")
#: Upload bundles to deploy, run applications of one's own there, and enter services in the catalogue.
OFFER: Final = Rule("cloud:publish")
#: Read the archive of a bundle at deploy; it belongs to each who has uploaded it, a service manager or a tenant.
READ_OFFERED_BUNDLE: Final = Rule("cloud:bundle")


def _grants(rule: Rule, granted: Mapping[Scope, tuple[str, ...]]) -> list[Grant]:
    return [Grant(role, rule, scope) for scope, roles in granted.items() for role in roles]


_PEOPLE: Final = (Role.TENANT, Role.READ_ONLY)

#: The table.
GRANTS: Final[tuple[Grant, ...]] = (
    *_grants(ORDER, {Scope.OWN_TENANT: (Role.TENANT,), Scope.COMPOSED: (Role.INSTANCE,)}),
    *_grants(
        READ,
        {
            Scope.OWN_TENANT: _PEOPLE,
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
        {Scope.OWN_TENANT: _PEOPLE, Scope.OWN_INSTANCE: (Role.INSTANCE,), Scope.ANY: (Role.OPERATOR,)},
    ),
    Grant(Role.PROVIDER, PUBLISH, Scope.OWN_TENANT),
    Grant(Role.PROVIDER, WITHDRAW, Scope.OWN_TENANT),
    Grant(Role.OPERATOR, WITHDRAW, Scope.ANY),
    Grant(Role.PROVIDER, READ_BUNDLE, Scope.OWN_TENANT),
    Grant(Role.OPERATOR, READ_BUNDLE, Scope.ANY),
    *_grants(READ_PUBLISHED, {Scope.OWN_TENANT: (*_PEOPLE, Role.PROVIDER), Scope.ANY: (Role.OPERATOR,)}),
    Grant(Role.OPERATOR, DRAIN, Scope.ANY),
    Grant(Role.OPERATOR, OPERATE, Scope.ANY),
    *_grants(
        READ_CATALOGUE,
        {Scope.ANY: (*_PEOPLE, Role.PROVIDER, Role.OPERATOR, Role.INSTANCE, Role.SERVICE)},
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
        ACT_FOR,
        {Scope.OWN_TENANT: (Role.SERVICE,), Scope.OWN_INSTANCE: (Role.INSTANCE,), Scope.ANY: (Role.OPERATOR,)},
    ),
    *_grants(OFFER, {Scope.OWN_TENANT: (Role.PROVIDER, Role.SERVICE), Scope.ANY: (Role.OPERATOR,)}),
    *_grants(
        READ_OFFERED_BUNDLE,
        {
            Scope.OWN_TENANT: (Role.PROVIDER, Role.SERVICE),
            Scope.OWN_BUNDLE: (Role.INSTANCE,),
            Scope.ANY: (Role.OPERATOR,),
        },
    ),
)

#: What a scope asks in oslo.policy's language; nothing where it asks nothing.
_CHECKS: Final[Mapping[Scope, str]] = {
    Scope.ANY: "",
    Scope.OWN_TENANT: "rule:own_project",
    Scope.OWN_INSTANCE: "rule:own_project and rule:own_instance",
    Scope.COMPOSED: "rule:own_project and rule:composed",
    Scope.BOUND: "rule:own_project and rule:bound",
}


def scopes(rule: Rule, roles: Collection[str]) -> frozenset[Scope]:
    """Within which scopes the roles may do what a rule stands for; none where they may not."""
    return frozenset(grant.scope for grant in GRANTS if grant.rule == rule and grant.role in roles)


def _check(rule: Rule) -> str:
    """What oslo.policy checks for a rule."""
    by_scope: dict[Scope, list[str]] = {}
    for grant in GRANTS:
        if grant.rule == rule:
            by_scope.setdefault(grant.scope, []).append(grant.role)
    parts = []
    for scope, roles in by_scope.items():
        # Whether somebody is an operator depends on more than the role's name.
        who = " or ".join("rule:operator" if role == Role.OPERATOR else f"role:{role}" for role in roles)
        asked = _CHECKS[scope]
        parts.append(f"(({who}) and {asked})" if asked else f"({who})")
    return " or ".join(parts)


#: Name → check. The first are parts of the others.
DEFAULTS: Final[Mapping[str, str]] = {
    "own_project": "project_id:%(project_id)s",
    "own_instance": "instance_id:%(instance_id)s",
    "composed": "instance_id:%(composed_by)s",
    "bound": "instance_id:%(bound_to)s",
    # A person with Keystone's admin role is an operator only with a system-scoped token, never by a project's.
    "operator": "role:operator or (role:admin and system_scope:all)",
    **{rule: _check(rule) for rule in sorted(RULES)},
}
