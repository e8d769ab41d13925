"""Files of a directory that are excluded from its bundle: `.archelonignore` and defaults.

The syntax is git's, without character classes: one pattern per line, `#` for comments, `*` and `?` inside one name, `**` across
names, a leading or inner `/` anchors at the root, a trailing `/` matches directories, `!` negates. The last matching pattern
decides; everything in an ignored directory stays ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import re2

from archelon_core.documents.problems import DocumentError, Problem

IGNORE_FILE = ".archelonignore"

#: They precede the author's own lines, which can negate them (`!tests/`).
DEFAULT_IGNORED = (
    IGNORE_FILE,
    "__pycache__/",
    "*.pyc",
    ".git/",
    ".gitignore",
    ".gitattributes",
    ".hg/",
    ".svn/",
    ".venv/",
    ".tox/",
    ".*_cache/",
    ".hypothesis/",
    ".idea/",
    ".vscode/",
    ".DS_Store",
    "*.swp",
    "*~",
    "tests/",
)
_MAX_LINES = 500
_MAX_LINE = 500
_TOKEN = re.compile(r"\*\*/|/\*\*\Z|\*\*|\*|\?|.")


class _Rule(NamedTuple):
    expression: Any
    directories_only: bool
    ignores: bool


class Ignored:
    """Decides which paths are ignored.

    Args:
        lines: of an ignore file; they follow the defaults.

    Raises:
        DocumentError: more or longer lines than the limits.
    """

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._rules: list[_Rule] = [_rule(line) for line in DEFAULT_IGNORED]
        for number, line in enumerate(lines, start=1):
            if number > _MAX_LINES or len(line) > _MAX_LINE:
                message = f"more than {_MAX_LINES} lines, or one of more than {_MAX_LINE} characters"
                raise DocumentError([Problem(IGNORE_FILE, number, 1, "", message, "use wildcards")])
            text = line.rstrip()
            if text and not text.startswith("#"):
                self._rules.append(_rule(text))

    def __call__(self, path: str, *, is_directory: bool) -> bool:
        """Whether to ignore this path; its parents are not ignored.

        Args:
            path: relative, with `/`.
            is_directory: whether it is a directory.
        """
        ignored = False
        # A name that is not UTF-8 is refused later; RE2 only needs bytes.
        raw = path.encode("utf-8", "surrogateescape")
        for rule in self._rules:
            if (is_directory or not rule.directories_only) and rule.expression.fullmatch(raw):
                ignored = rule.ignores
        return ignored


def _rule(line: str) -> _Rule:
    ignores = not line.startswith("!")
    pattern = line.removeprefix("!")
    directories_only = pattern.endswith("/")
    pattern = pattern.rstrip("/")
    anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    parts = [] if anchored else ["(?:.*/)?"]
    for found in _TOKEN.finditer(pattern):
        token = found[0]
        if token == "**/":  # nosec  # noqa: S105 – a wildcard, not a password
            parts.append("(?:.*/)?")
        elif token == "/**":  # nosec  # noqa: S105
            parts.append("/.*")
        elif token == "**":  # nosec  # noqa: S105
            parts.append(".*")
        elif token == "*":  # nosec  # noqa: S105
            parts.append("[^/]*")
        elif token == "?":  # nosec  # noqa: S105
            parts.append("[^/]")
        else:
            parts.append(re2.escape(token))
    options = re2.Options()
    options.dot_nl = True
    return _Rule(re2.compile("".join(parts), options), directories_only, ignores)
