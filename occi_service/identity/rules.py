"""The rules of the policy and their defaults: who may do what, unless the operator's file says otherwise.

A rule is written in oslo.policy's language. What it can ask about is the caller's `role`, `project_id`, `instance_id`,
`token_kind` and `system_scope`, and of the target `%(project_id)s` and `%(instance_id)s`; nothing else, so that a decision
depends on nothing else and can be kept. Owning is always part of a tenant's rule: tenants are isolated in queries first,
and here again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NewType

__all__ = [
    "ACT",
    "ADOPT",
    "DEFAULTS",
    "DELETE",
    "DRAIN",
    "HISTORY",
    "LIST_ALL",
    "OPERATE",
    "ORDER",
    "PUBLISH",
    "READ",
    "REPORT",
    "RULES",
    "UPDATE",
    "WITHDRAW",
    "Rule",
]

#: A rule that a service asks the policy about.
Rule = NewType("Rule", str)

ORDER: Final = Rule("instance:order")
READ: Final = Rule("instance:read")
UPDATE: Final = Rule("instance:update")
DELETE: Final = Rule("instance:delete")
#: Invoke an action of an instance.
ACT: Final = Rule("instance:act")
#: Report a phase's outcome: the instance's own token only.
REPORT: Final = Rule("instance:report")
#: See every tenant's instances.
LIST_ALL: Final = Rule("instance:list_all")
#: Re-home an instance whose trustor is gone.
ADOPT: Final = Rule("instance:adopt")
#: Read the history of an instance, after its end too.
HISTORY: Final = Rule("history:read")
PUBLISH: Final = Rule("service:publish")
WITHDRAW: Final = Rule("service:withdraw")
#: Stop taking orders, and let what runs finish.
DRAIN: Final = Rule("service:drain")
#: Everything else that keeps a service going: retry, dispose of, look into.
OPERATE: Final = Rule("service:operate")

_READERS = "((role:tenant or role:read-only or role:instance or role:service) and rule:own_project) or rule:operator"
_WRITERS = "(role:tenant or role:instance) and rule:own_project"

#: Name → check string. The first two are parts of the others.
DEFAULTS: Final[Mapping[str, str]] = {
    "own_project": "project_id:%(project_id)s",
    # A person with Keystone's admin role is an operator only with a system-scoped token, never by a project's.
    "operator": "role:operator or (role:admin and system_scope:all)",
    ORDER: _WRITERS,
    READ: _READERS,
    UPDATE: f"({_WRITERS}) or rule:operator",
    DELETE: f"({_WRITERS}) or rule:operator",
    ACT: f"({_WRITERS}) or rule:operator",
    REPORT: "role:instance and rule:own_project and instance_id:%(instance_id)s",
    LIST_ALL: "rule:operator",
    ADOPT: "rule:operator",
    HISTORY: _READERS,
    PUBLISH: "role:provider",
    WITHDRAW: "role:provider or rule:operator",
    DRAIN: "rule:operator",
    OPERATE: "rule:operator",
}

#: What `Policy.check` can be asked about.
RULES: Final = frozenset(
    {ORDER, READ, UPDATE, DELETE, ACT, REPORT, LIST_ALL, ADOPT, HISTORY, PUBLISH, WITHDRAW, DRAIN, OPERATE}
)
