"""The goals of the benchmarks stand in one table, and the summary lists them."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import found
from benchmarks.goals import GOALS, Goals, Result, table

_ROOT = Path(__file__).parents[1]
_BENCHMARKS = _ROOT / "benchmarks"


def _strings(path: Path) -> set[str]:
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_goal_is_checked_and_every_check_has_a_goal() -> None:
    modules = [each for each in sorted(_BENCHMARKS.glob("*.py")) if each.name != "goals.py"]
    assert GOALS.keys() <= set[str]().union(*map(_strings, modules))
    checked = {
        node.args[0].value
        for path in modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "check"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(checked) > 20
    assert checked <= GOALS.keys()


def test_a_check_compares_in_the_direction_of_its_goal(capsys: pytest.CaptureFixture[str]) -> None:
    goals = Goals()
    for name, value in (("hello.rate", 9.0), ("hello.rate", 10.0), ("dev.ready", 1.5), ("dev.ready", 1.6)):
        goals.check(name, value)
    assert [each.met for each in goals.results] == [False, True, True, False]
    assert capsys.readouterr().out.splitlines()[0] == "  MISSED  hello orders, 50 at once: 9.0 /s (goal: >= 10.0 /s)"


def test_the_summary_lists_goals_without_a_result() -> None:
    results = [Result("dev.memory", 250, "here"), Result("hello.rate", 12)]
    # In the table's order, however they were measured.
    assert [line.split()[0] for line in table(results, unmeasured=False)] == ["what", "hello", "archelon"]
    lines = list(table(results, unmeasured=True))
    assert len(lines) == 1 + len(GOALS)
    assert lines[1].endswith("met")
    assert "MISSED" in next(line for line in lines if "(here)" in line)
    assert sum(line.endswith("not measured") for line in lines) == len(GOALS) - 2


def test_pages_name_benchmarks_that_exist() -> None:
    pages = [_ROOT / "CONTRIBUTING.md", *sorted((_ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text() for page in pages)
    for line in re.findall(r"python -m benchmarks ([a-z_ ]+)", text):
        assert set(line.split()) <= found().keys(), line
    modules = set(re.findall(r"python -m (benchmarks\.[a-z_]+)", text))
    assert {"benchmarks.flame_graph", "benchmarks.hello_orders"} & modules
    assert [each for each in modules if importlib.util.find_spec(each) is None] == []
