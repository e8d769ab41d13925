"""Reading the operator's policy file: what oslo.policy would log and then silently forbid, or allow, is refused here.

oslo.policy turns a rule that it can't parse into "forbidden", a misspelt name into a rule that nobody asks for, and takes any
word before a colon for an attribute. In a file that is read once, at start, each of these is an error with a line number instead.
"""

from __future__ import annotations

import graphlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from oslo_policy import policy as oslo

from ..documents import tree
from ..documents.problems import DocumentError
from ..documents.reading import only_document, read_file
from ..documents.tree import DocumentLimits
from . import rules

_LIMITS: Final = DocumentLimits(characters=256 * 1024)

#: What a rule may ask about the caller.
CALLER: Final = frozenset({"project_id", "instance_id", "token_kind", "system_scope"})
#: What a rule may ask about the target, as `%(name)s`.
TARGET: Final = frozenset({"project_id", "instance_id", "composed_by", "bound_to"})

#: A "!" of its own in a rule's text.
_WRITTEN_NOBODY = re.compile(r"(?:^|[\s(])!(?=$|[\s)])")
_TARGET_REFERENCE = re.compile(r"%\((\w+)\)s")


class PolicyFileError(Exception):
    """The policy file can't be used. The text names the file, the line and the remedy."""


def read(path: Path) -> dict[str, str]:
    """Rules by name from a file, each one checked by itself.

    Raises:
        PolicyFileError: unreadable, not YAML, an unknown rule, or one that oslo.policy would not understand.
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
    """Parse one rule.

    Raises:
        ValueError: no such rule, or its check can't be understood; without the place.
    """
    if name not in rules.DEFAULTS:
        known = ", ".join(sorted(rules.DEFAULTS))
        raise ValueError(f"there is no rule {name!r}; there are: {known}")
    if not text.strip():
        # oslo.policy takes an empty check for "everyone"; too much to hang on a forgotten value.
        raise ValueError(f'rule {name!r} is empty; write "@" to allow everyone or "!" to allow nobody')
    tree = _parse(text)
    leaves = list(_leaves(tree))
    # What the parser does not understand becomes a "!" that nobody wrote.
    if sum(str(leaf) == "!" for leaf in leaves) != len(_WRITTEN_NOBODY.findall(text)):
        raise ValueError(
            f"rule {name!r} can't be understood: {text!r}. A check is `role:name`, `rule:name` or `attribute:value`, "
            "joined by and, or, not and parentheses"
        )
    for leaf in leaves:
        if str(leaf) not in ("@", "!"):
            _check_leaf(name, leaf)
    return tree


def check_circles(checks: Mapping[str, str]) -> None:
    """Refuse rules that refer to one another in a circle, over which oslo.policy would recurse.

    Raises:
        ValueError: naming the circle.
    """
    graph: dict[str, set[str]] = {}
    for name, text in checks.items():
        graph[name] = {leaf.match for leaf in _leaves(_parse(text)) if isinstance(leaf, oslo.RuleCheck)}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"rules refer to one another in a circle: {' → '.join(error.args[1])}") from None


def _parse(text: str) -> Any:
    # The parser logs a traceback for what becomes one clear error here.
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
    # Among what is refused: `http:`, which would ask another server on every decision.
    if leaf.kind != "role" and leaf.kind not in CALLER:
        known = ", ".join(["role", "rule", *sorted(CALLER)])
        raise ValueError(f"rule {name!r} asks about {leaf.kind!r}; it can ask about: {known}")
    for reference in _TARGET_REFERENCE.findall(leaf.match):
        if reference not in TARGET:
            known = ", ".join(f"%({one})s" for one in sorted(TARGET))
            raise ValueError(f"rule {name!r} refers to %({reference})s; of the target there are: {known}")
    if "%" in _TARGET_REFERENCE.sub("", leaf.match) or not leaf.match:
        raise ValueError(f"rule {name!r}: {leaf.match!r} is not a value; a reference is written %(project_id)s")
