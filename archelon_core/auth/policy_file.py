"""The operator's policy file, read strictly: what oslo.policy would log and then silently forbid or allow is an error here.

oslo.policy turns an invalid rule into "forbidden", a misspelt name into an unused rule, and takes any word before a colon for an
attribute. In a file that is read once, at start, each of these is an error with a line number instead.
"""

from __future__ import annotations

import graphlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from oslo_policy import _checks
from oslo_policy import policy as oslo

from ..documents import tree
from ..documents.problems import DocumentError
from ..documents.reading import only_document, read_file
from ..documents.tree import DocumentLimits
from . import rules

_LIMITS: Final = DocumentLimits(characters=256 * 1024)

#: Attributes of the caller that a rule may refer to.
CALLER: Final = frozenset({"project_id", "instance_id", "token_kind", "system_scope"})
#: Attributes of the target that a rule may refer to, as `%(name)s`.
TARGET: Final = frozenset({"project_id", "instance_id", "composed_by", "bound_to"})

#: A literal "!" in a rule's text.
_WRITTEN_DENIAL = re.compile(r"(?:^|[\s(])!(?=$|[\s)])")
_TARGET_REFERENCE = re.compile(r"%\((\w+)\)s")

# Otherwise the parser loads all extensions that are installed, and with them a second HTTP client: 3 MiB and 30 ms in each
# process. `_check_leaf` refuses whatever refers to one.
_checks.extension_checks = {}


class PolicyFileError(Exception):
    """The policy file is unusable. The text names the file, the line and the remedy."""


def read(path: Path) -> dict[str, str]:
    """Read the rules of a file, by name, each one checked by itself.

    Raises:
        PolicyFileError: unreadable, not YAML, an unknown rule, or one that oslo.policy would misread.
    """
    try:
        documents = read_file(path, name=str(path), limits=_LIMITS, failsafe=True)
        if not documents:
            return {}
        root = only_document(documents, str(path))
    except DocumentError as error:
        raise PolicyFileError(str(error)) from None
    if not isinstance(root, tree.Mapping):
        raise PolicyFileError(
            f'{path}:{root.mark}: must be a mapping from rule to check: "{rules.ORDER}": "role:tenant"'
        )
    found: dict[str, str] = {}
    for name, mark, value in root.entries:
        try:
            if not isinstance(value, tree.Scalar):
                raise ValueError("a rule is one name and one text; write `or` and `and` in the text")
            found[name] = str(value.value)
            check_tree(name, found[name])
        except ValueError as error:
            raise PolicyFileError(f"{path}:{mark}: {error}") from None
    return found


def check_tree(name: str, text: str) -> Any:
    """Parse one rule. Raises ValueError: an unknown rule, or an invalid check; without the file and line."""
    if name not in rules.DEFAULTS:
        known = ", ".join(sorted(rules.DEFAULTS))
        raise ValueError(f"no rule {name!r}; expected one of {known}")
    if not text.strip():
        # oslo.policy takes an empty check for "everyone", too permissive for a forgotten value.
        raise ValueError(f'rule {name!r} is empty; write "@" to allow everyone or "!" to allow no one')
    tree = _parse(text)
    leaves = list(_leaves(tree))
    # The parser replaces an invalid check by "!": count those that were not written.
    if sum(str(leaf) == "!" for leaf in leaves) != len(_WRITTEN_DENIAL.findall(text)):
        raise ValueError(
            f"rule {name!r} cannot be parsed: {text!r}. A check is `role:name`, `rule:name` or `attribute:value`, "
            "joined by and, or, not and parentheses"
        )
    for leaf in leaves:
        if str(leaf) not in ("@", "!"):
            _check_leaf(name, leaf)
    return tree


def check_circles(checks: Mapping[str, str]) -> None:
    """Refuse rules that refer to one another in a circle; oslo.policy would recurse forever.

    Raises:
        ValueError: there is a circle; the text names it.
    """
    graph: dict[str, set[str]] = {}
    for name, text in checks.items():
        graph[name] = {leaf.match for leaf in _leaves(_parse(text)) if isinstance(leaf, oslo.RuleCheck)}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"rules refer to one another in a circle: {' → '.join(error.args[1])}") from None


def _parse(text: str) -> Any:
    # The parser logs a traceback for what is one clear error here.
    logger = logging.getLogger("oslo_policy._parser")
    before = logger.disabled
    logger.disabled = True
    try:
        return oslo.Rules.from_dict({"rule": text})["rule"]
    finally:
        logger.disabled = before


def _leaves(check: Any) -> Iterator[Any]:
    if isinstance(check, oslo.AndCheck | oslo.OrCheck):
        for part in check.rules:
            yield from _leaves(part)
    elif isinstance(check, oslo.NotCheck):
        yield from _leaves(check.rule)
    else:
        yield check


def _check_leaf(name: str, leaf: oslo.Check) -> None:
    if leaf.kind == "rule":
        if leaf.match not in rules.DEFAULTS:
            raise ValueError(f"rule {name!r} refers to rule {leaf.match!r}, which does not exist")
        return
    # This also refuses `http:`, which would call another server on every decision.
    if leaf.kind != "role" and leaf.kind not in CALLER:
        known = ", ".join(["role", "rule", *sorted(CALLER)])
        raise ValueError(f"rule {name!r} refers to {leaf.kind!r}; expected one of {known}")
    for reference in _TARGET_REFERENCE.findall(leaf.match):
        if reference not in TARGET:
            known = ", ".join(f"%({one})s" for one in sorted(TARGET))
            raise ValueError(f"rule {name!r} refers to %({reference})s; expected one of {known}")
    if "%" in _TARGET_REFERENCE.sub("", leaf.match) or not leaf.match:
        raise ValueError(f"rule {name!r}: {leaf.match!r} is not a value; a reference is written %(project_id)s")
