"""Problems in a document, described so that its author can fix them.

Readers collect `Problem`s and continue as long as possible, so that one run reports everything. A problem names file, line,
column and JSON path, what is wrong and what to do. Its text never contains values: they may be secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Maximum number of problems that a reader reports: a hostile text could have 100,000.
MAX_PROBLEMS = 100
#: Maximum number of names in a list; the rest is counted.
_LISTED = 20

#: The path from the root of a document to a node: keys of mappings and indices of sequences.
Path = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


def json_path(path: Path) -> str:
    """Format a JSON path: `$.depends_on[0]['http://…#dns'].inputs`.

    Args:
        path: keys and indices from the root.
    """
    parts = ["$"]
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN_KEY.match(step):
            parts.append(f".{step}")
        else:
            shown = step if len(step) <= 120 else step[:117] + "…"
            escaped = shown.encode("unicode_escape").decode("ascii") if not shown.isprintable() else shown
            parts.append("['" + escaped.replace("'", "\\'") + "']")
    return "".join(parts)


def listed(names: Iterable[str]) -> str:
    """Names for a remedy: sorted, the first twenty, or `none`."""
    known = sorted(names)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return (", ".join(known[:_LISTED]) + more) or "none"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem in a document.

    Args:
        file: the file's name as the author knows it; in a bundle, relative to that.
        line: from 1; 0 for the whole file.
        column: from 1, in characters; 0 for the whole file.
        path: JSON path inside the document, `$` for all of it, empty if the file is not a document.
        message: what is wrong.
        remedy: what to do.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.fault}; {self.remedy}"

    @property
    def fault(self) -> str:
        """What is wrong, with the path if that adds to the line."""
        return self.message if self.path in ("", "$") else f"{self.path}: {self.message}"


class DocumentError(ValueError):
    """A document, or a bundle of them, cannot be used.

    Attributes:
        problems: in the order of the files, at most 100.

    Args:
        problems: at least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems))[:MAX_PROBLEMS])
        super().__init__("\n".join(str(problem) for problem in self.problems))
