"""Checks a bundle's `orchestrator.py` without executing it.

The file has one class that derives from `sdk.Orchestrator`. A base that is imported from elsewhere may be one that does, so what
is reported is certain; `archelon validate`, on the author's machine, also loads the class as the SDK does.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from archelon_core.documents.problems import Problem

ORCHESTRATOR_FILE: Final = "orchestrator.py"
#: What the one class derives from, and the modules that have it.
ORCHESTRATOR: Final = "Orchestrator"
_MODULES: Final = ("sdk", "sdk.orchestrator")
#: Bytes of the file.
MAX_CODE: Final = 1024 * 1024
_REMEDY: Final = f"write `class Service(sdk.{ORCHESTRATOR}):`, or remove the file to use the default orchestrator"


def code_problems(code: bytes) -> list[Problem]:
    """The problems of an `orchestrator.py`.

    Args:
        code: its bytes, of a longer file at least `MAX_CODE` + 1.
    """
    if len(code) > MAX_CODE:
        return [_problem(0, 0, f"longer than {MAX_CODE} bytes", "split it into modules")]
    try:
        tree = ast.parse(code, filename=ORCHESTRATOR_FILE)
    except SyntaxError as error:
        return [_problem(error.lineno or 0, error.offset or 0, f"this is not Python: {error.msg}", "correct it")]
    except (ValueError, RecursionError, MemoryError):
        return [_problem(0, 0, "Python cannot parse it", "remove null bytes and deep nesting")]
    return _Classes(tree).problems()


def number_problem(found: Sequence[str], line: int = 1) -> Problem:
    """The problem of a file without the one class, or with several; `found` are their names."""
    if not found:
        return _problem(line, 1, f"no class derives from sdk.{ORCHESTRATOR}", _REMEDY)
    names = ", ".join(found)
    remedy = "keep one, or derive one of them from the other"
    return _problem(line, 1, f"several classes derive from sdk.{ORCHESTRATOR}: {names}", remedy)


def _problem(line: int, column: int, message: str, remedy: str) -> Problem:
    return Problem(ORCHESTRATOR_FILE, line, column, "", message, remedy)


class _Classes:
    """The classes of a module, and what they derive from as far as its text tells."""

    def __init__(self, tree: ast.Module) -> None:
        #: Names that mean the base class, and names of modules that have it.
        self._bases: set[str] = set()
        self._modules: set[str] = set()
        self._classes: dict[str, ast.ClassDef] = {}
        #: Classes that exist whatever happens when the module is imported.
        self._certain = {each.name for each in tree.body if isinstance(each, ast.ClassDef)}
        self._functions: set[str] = set()
        #: Whether a call may have returned a class of this module.
        self._made = False
        for statement in _statements(tree.body):
            self._read(statement)

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.ClassDef):
            self._classes[statement.name] = statement
        elif isinstance(statement, ast.Import):
            for each in statement.names:
                if each.name in _MODULES:
                    self._modules.add(each.asname or each.name)
        elif isinstance(statement, ast.ImportFrom):
            for each in statement.names:
                if statement.module in _MODULES and each.name == ORCHESTRATOR:
                    self._bases.add(each.asname or each.name)
                elif statement.module == "sdk" and each.name == "orchestrator":
                    self._modules.add(each.asname or each.name)
        elif isinstance(statement, ast.FunctionDef):
            self._functions.add(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Call):
            # `type("Service", (sdk.Orchestrator,), {…})`, or a function of this module that returns a class.
            named = {_dotted(each) for each in ast.walk(statement.value) if isinstance(each, ast.Name | ast.Attribute)}
            self._made |= any(each in self._functions or self._is_base(each) for each in named)

    def problems(self) -> list[Problem]:
        derived: set[str] = set()
        possible = self._made
        # A class can derive from an earlier one only, so one pass in the order of the text is enough.
        for name, each in self._classes.items():
            kinds = [self._derives(base, derived) for base in each.bases]
            if True in kinds:
                derived.add(name)
            elif None in kinds:
                possible = True
        if not derived:
            first = next(iter(self._classes.values()), None)
            return [] if possible else [number_problem([], 1 if first is None else first.lineno)]
        bases = {base for each in self._classes.values() for base in map(_dotted, each.bases)}
        ends = [name for name in self._classes if name in derived & self._certain and name not in bases]
        return [number_problem(ends, self._classes[ends[1]].lineno)] if len(ends) > 1 else []

    def _is_base(self, name: str) -> bool:
        module, _, last = name.rpartition(".")
        return name in self._bases or (last == ORCHESTRATOR and module in self._modules)

    def _derives(self, base: ast.expr, derived: set[str]) -> bool | None:
        """Whether a base is, or derives from, the base class; None if the text does not tell."""
        name = _dotted(base)
        if name in derived or self._is_base(name):
            return True
        return False if name in self._classes or name in dir(builtins) else None


def _dotted(expression: ast.expr) -> str:
    """The name that an expression is, `a` or `a.b`; otherwise an empty string."""
    parts: list[str] = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    return ".".join([expression.id, *reversed(parts)]) if isinstance(expression, ast.Name) else ""


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, in the order of the text: not those of functions and classes."""
    ahead = list(body)[::-1]
    while ahead:
        each = ahead.pop()
        yield each
        if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        inner: list[ast.stmt] = []
        for child in ast.iter_child_nodes(each):
            if isinstance(child, ast.stmt):
                inner.append(child)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                inner.extend(child.body)
        ahead.extend(reversed(inner))
