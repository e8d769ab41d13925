"""The files and functions of "One order, from HTTP to a Heat stack" in docs/architecture.md exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def _functions(path: Path) -> set[str]:
    """The qualified names of a module's functions and methods."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


def test_the_files_and_functions_of_one_order_exist() -> None:
    _, _, rest = PAGE.read_text().partition("## One order, from HTTP to a Heat stack\n")
    section, _, _ = rest.partition("\n## ")
    steps = re.findall(r"^\| \d+ \| `([\w/.]+)` \| `([\w.]+)` \|", section, re.MULTILINE)
    assert 8 <= len(steps) <= 12
    for file, function in steps:
        assert function in _functions(ROOT / file), f"{PAGE.name} names {function} in {file}"


def test_every_path_that_a_page_names_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    packages = "|".join(each.name for each in ROOT.iterdir() if each.is_dir() and not each.name.startswith("."))
    named = {
        (page.name, path)
        for page in pages
        for path in re.findall(rf"`((?:{packages})/[\w./-]+)`", page.read_text())
        if path != "archelon_core/logging.py"  # ADR 033 rejects this name
    }
    assert len(named) > 50
    assert [(page, path) for page, path in sorted(named) if not (ROOT / path).exists()] == []
