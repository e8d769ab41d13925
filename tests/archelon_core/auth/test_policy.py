"""The policy: the default table, overrides by a file, and errors at start."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_core import auth
from archelon_core.auth import TenantId, TokenKind, rules
from archelon_core.auth.policy import Policy, Target
from archelon_core.auth.policy_file import PolicyFileError
from archelon_core.auth.rules import Rule, Scope
from archelon_core.errors import ForbiddenError

OWN, OTHER, UNOWNED = Target(TenantId("t"), "i"), Target(TenantId("u"), "j"), Target()


def caller(
    *roles: str, kind: TokenKind = TokenKind.USER, instance: str | None = None, system: bool = False
) -> auth.Identity:
    return auth.Identity(
        subject="alice",
        tenant_id=TenantId("t"),
        tenant_name="demo",
        roles=frozenset(roles),
        kind=kind,
        expires=None,
        issuer="realm",
        token_id="x",
        instance_id=instance,
        system_scope=system,
    )


def instance_token(instance: str = "i") -> auth.Identity:
    return caller("instance", kind=TokenKind.INSTANCE, instance=instance)


def allowed(policy_: Policy, rule: Rule, who: auth.Identity, target: Target) -> bool:
    try:
        policy_.check(rule, who, target)
    except ForbiddenError:
        return False
    return True


@pytest.fixture(scope="module")
def default() -> Policy:
    return Policy()


WRITE = {rules.ORDER, rules.UPDATE, rules.DELETE, rules.ACT, rules.TAG}
SEE = {rules.READ, rules.HISTORY, rules.READ_PUBLISHED}
#: None of these belongs to an operator.
NOT_OPERATORS = {rules.ORDER, rules.PUBLISH, rules.REPORT, rules.TAG, rules.SECRETS, rules.OUTPUTS}
#: Role → (on its own instance, on another tenant's).
TABLE: dict[str, tuple[set[Rule], set[Rule]]] = {
    "tenant": (WRITE | SEE | {rules.SECRETS, rules.OUTPUTS}, set()),
    "read-only": (SEE, set()),
    "provider": ({rules.PUBLISH, rules.WITHDRAW, rules.READ_BUNDLE, rules.READ_PUBLISHED}, set()),
    "operator": (set(rules.RULES) - NOT_OPERATORS, set(rules.RULES) - NOT_OPERATORS),
    "service": (set(), set()),
    "admin": (set(), set()),
    "nonsense": (set(), set()),
}


@pytest.mark.parametrize("role", TABLE)
def test_the_default_table(default: Policy, role: str) -> None:
    own, other = TABLE[role]
    assert {rule for rule in rules.RULES if allowed(default, rule, caller(role), OWN)} == own
    assert {rule for rule in rules.RULES if allowed(default, rule, caller(role), OTHER)} == other


def test_an_instance_token_reports_for_its_own_instance_only(default: Policy) -> None:
    assert allowed(default, rules.REPORT, instance_token("i"), OWN)
    assert not allowed(default, rules.REPORT, instance_token("i"), Target(TenantId("t"), "j"))
    assert not allowed(default, rules.REPORT, instance_token("i"), Target(TenantId("u"), "i"))
    assert not allowed(default, rules.REPORT, instance_token("i"), Target(TenantId("t")))


def test_an_instance_token_manages_composed_and_reads_bound_instances(default: Policy) -> None:
    write = {rules.ORDER, rules.UPDATE, rules.DELETE, rules.ACT}
    read = {rules.READ, rules.OUTPUTS}
    for target, expected in (
        (OWN, read | {rules.SECRETS, rules.HISTORY, rules.REPORT}),
        (Target(TenantId("t"), composed_by="i"), read | write | {rules.SECRETS}),
        (Target(TenantId("t"), bound_to="i"), read),
        (Target(TenantId("t"), "j", composed_by="j", bound_to="j"), set()),
        (Target(TenantId("u"), "i", composed_by="i", bound_to="i"), set()),
        (Target(TenantId("t")), set()),
    ):
        assert {rule for rule in rules.RULES if allowed(default, rule, instance_token("i"), target)} == expected


def test_a_system_admin_is_an_operator_and_a_project_admin_is_not(default: Policy) -> None:
    assert not allowed(default, rules.DRAIN, caller("admin"), UNOWNED)
    assert allowed(default, rules.DRAIN, caller("admin", system=True), UNOWNED)
    assert not allowed(default, rules.DRAIN, caller("tenant", system=True), UNOWNED)


def test_a_target_without_owner_belongs_to_no_tenant(default: Policy) -> None:
    nobodys = Target(TenantId(""))
    projectless = auth.Identity(
        subject="a",
        tenant_id=TenantId(""),
        tenant_name="",
        roles=frozenset({"tenant"}),
        kind=TokenKind.USER,
        expires=None,
        issuer="k",
        token_id="x",
    )
    assert not allowed(default, rules.READ, projectless, nobodys)
    assert not allowed(default, rules.READ, projectless, UNOWNED)
    assert not allowed(default, rules.READ, caller("tenant"), UNOWNED)


role_sets = st.sets(st.sampled_from(sorted(TABLE)))


@given(role_sets, st.sampled_from(sorted(rules.RULES)))
def test_roles_are_additive(roles: set[str], name: str) -> None:
    default = _shared()
    for index, target in ((0, OWN), (1, OTHER)):
        expected = any(name in TABLE[role][index] for role in roles)
        assert allowed(default, Rule(name), caller(*roles), target) is expected


_POLICIES: list[Policy] = []


def _shared() -> Policy:
    if not _POLICIES:
        _POLICIES.append(Policy())
    return _POLICIES[0]


def test_a_refusal_names_the_sufficient_role(default: Policy) -> None:
    with pytest.raises(ForbiddenError) as caught:
        default.check(rules.ORDER, caller("read-only"), OWN)
    assert caught.value.message == "instance:order needs the role tenant here."
    assert (caught.value.status, caught.value.where) == (403, "instance:order")
    with pytest.raises(ForbiddenError, match="needs the role read-only or tenant or operator here"):
        default.check(rules.READ, caller("provider"), OWN)
    with pytest.raises(ForbiddenError, match="not allowed here with any role of this token's project"):
        default.check(rules.ORDER, caller("operator"), OTHER)


def test_an_unknown_rule_raises(default: Policy) -> None:
    for name in ("instance:fly", "own_project"):
        with pytest.raises(ValueError, match="no rule"):
            default.check(Rule(name), caller("operator"), OWN)


def test_decisions_are_cached_by_everything_they_depend_on(tmp_path: Path) -> None:
    ours = Policy(_file(tmp_path, '"instance:read": "project_id:t and instance_id:i and token_kind:instance"'))
    seen = []
    for kind, instance in itertools.product(TokenKind, ("i", "j", None)):
        who = caller("tenant", kind=kind, instance=instance)
        # Twice: decided, then cached.
        answers = {allowed(ours, rules.READ, who, OWN) for _ in range(2)}
        assert len(answers) == 1
        if answers == {True}:
            seen.append((kind, instance))
    assert seen == [(TokenKind.INSTANCE, "i")]


def test_the_cache_is_bounded() -> None:
    ours = Policy(decisions=10)
    for number in range(50):
        assert not allowed(ours, rules.READ, caller("tenant"), Target(TenantId(f"other-{number}")))
    assert len(ours._decisions) == 10


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return path


def test_a_file_overrides_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    ours = Policy(
        _file(
            tmp_path,
            "# Publishing needs two roles here.\n"
            '"service:publish": "role:provider and (role:reviewer or not role:tenant)"\n'
            '"service:drain": "!"\n'
            '"instance:read": "@"\n'
            '"operator": "role:chief"\n',
        )
    )
    assert not allowed(ours, rules.PUBLISH, caller("provider", "tenant"), UNOWNED)
    assert allowed(ours, rules.PUBLISH, caller("provider", "tenant", "reviewer"), UNOWNED)
    assert not allowed(ours, rules.DRAIN, caller("operator", "chief"), UNOWNED)
    assert allowed(ours, rules.READ, caller(), OTHER)
    assert allowed(ours, rules.ADOPT, caller("chief"), OTHER)
    assert not allowed(ours, rules.ADOPT, caller("operator"), OTHER)
    assert allowed(ours, rules.ORDER, caller("tenant"), OWN)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert allowed(Policy(_file(tmp_path, "# nothing yet\n")), rules.ORDER, caller("tenant"), OWN)


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ('"instance:raed": "role:tenant"', 1, "no rule 'instance:raed'"),
        ('\n"instance:read": "role:tenant or"', 2, "cannot be parsed"),
        ('"instance:read": "tenant"', 1, "cannot be parsed"),
        ('"instance:read": "role:tenant or tenant"', 1, "cannot be parsed"),
        ('"instance:read": "(role:tenant"', 1, "cannot be parsed"),
        ('"instance:read": "role:tenant role:operator"', 1, "cannot be parsed"),
        ('"instance:read": "! or tenant"', 1, "cannot be parsed"),
        ('"instance:read": ""', 1, "is empty"),
        ('"instance:read":', 1, "is empty"),
        ('"instance:read": "rule:nobody"', 1, "refers to rule 'nobody'"),
        ('"instance:read": "http://policy.example.org/ask"', 1, "refers to 'http'"),
        ('"instance:read": "https://policy.example.org/ask"', 1, "refers to 'https'"),
        ('"instance:read": "user_id:%(user_id)s"', 1, "refers to 'user_id'"),
        ('"instance:read": "True:%(project_id)s"', 1, "refers to 'True'"),
        ('"instance:read": "project_id:%(owner)s"', 1, "%(owner)s"),
        ('"instance:read": "project_id:%(project_id)d"', 1, "is not a value"),
        ('"instance:read": "project_id:"', 1, "is not a value"),
        ('"instance:read": ["role:tenant"]', 1, "one name and one text"),
        ('"instance:read": "@"\n"instance:read": "!"', 2, "twice"),
        ('"operator": "rule:own_project"\n"own_project": "rule:operator"', 0, "in a circle"),
        ('"operator": "not rule:operator"', 0, "in a circle"),
        ("- role:tenant", 1, "must be a mapping"),
        ("a: [", 2, "not YAML"),
        ("\x00", 1, "not YAML"),
    ],
)
def test_a_bad_file_is_refused_at_start(
    tmp_path: Path, text: str, line: int, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = _file(tmp_path, text)
    with caplog.at_level(logging.WARNING), pytest.raises(PolicyFileError) as caught:
        Policy(path)
    assert re.match(re.escape(str(path)) + (rf":{line}:[1-9][0-9]*: " if line else ":"), str(caught.value))
    assert fault in str(caught.value)
    assert caplog.text == ""


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="cannot be read: No such file"):
        Policy(tmp_path / "nothing.yaml")
    with pytest.raises(PolicyFileError, match="larger than"):
        Policy(_file(tmp_path, "#" * 300_000))


def test_every_rule_has_a_default() -> None:
    assert set(rules.DEFAULTS) - rules.RULES == {"own_project", "own_instance", "composed", "bound", "operator"}


def test_the_documented_table_is_the_one_in_force() -> None:
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    _, _, rest = text.partition("<!-- grants -->\n")
    shown, marker, _ = rest.partition("\n<!-- /grants -->")
    assert marker, "docs/security.md has the table between <!-- grants --> and <!-- /grants -->"
    granted: dict[tuple[Rule, Scope], list[str]] = {}
    for grant in rules.GRANTS:
        granted.setdefault((grant.rule, grant.scope), []).append(grant.role)
    lines = ["| rule | scope | roles |", "| --- | --- | --- |"]
    lines += [f"| `{rule}` | {scope.value} | {', '.join(sorted(roles))} |" for (rule, scope), roles in granted.items()]
    assert shown == "\n".join(lines)
