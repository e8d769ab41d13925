"""Loads a bundle's orchestrator: the one class in its `orchestrator.py`, or the default without that file."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import bundles
from bundles.code import ORCHESTRATOR_FILE, number_problem

from ..errors import Failure, describe
from ..orchestrator import Orchestrator

_MODULE = "orchestrator"


class LoadFailure(Failure):
    """The class cannot be loaded; `problem` says where and why."""

    def __init__(self, problem: bundles.Problem) -> None:
        super().__init__(str(problem), permanent=True)
        self.problem = problem


def load_class(bundle: bundles.Bundle) -> type[Orchestrator]:
    """Return the class to run.

    Raises:
        LoadFailure: `orchestrator.py` cannot be imported, or has no subclass of `sdk.Orchestrator`, or several.
    """
    return _class_in(bundle.directory) if ORCHESTRATOR_FILE in bundle.files else Orchestrator


def problems_here(directory: str) -> list[list[Any]]:
    """Load the class in a child process; return the problem of `orchestrator.py`, if any, as a list of its fields."""
    # The child's standard output is for its parent.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            _class_in(Path(directory))
        except LoadFailure as error:
            return [list(dataclasses.astuple(error.problem))]
    return []


def _class_in(directory: Path) -> type[Orchestrator]:
    module = _imported(directory / ORCHESTRATOR_FILE)
    found = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Orchestrator) and each.__module__ == module.__name__
    ]
    # A class that others derive from is a base, not a second orchestrator.
    ends = [each for each in found if not any(other is not each and issubclass(other, each) for other in found)]
    if len(ends) != 1:
        raise LoadFailure(number_problem([each.__name__ for each in ends]))
    return ends[0]


def _imported(path: Path) -> ModuleType:
    # Other modules of the bundle are importable, as for any program.
    directory = str(path.parent.resolve())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    name = f"{_MODULE}_{abs(hash(directory)):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise LoadFailure(_import_problem(error, path.parent)) from error
    return module


def _import_problem(error: BaseException, directory: Path) -> bundles.Problem:
    """The problem of a failed import, at the last line of the bundle that was executed."""
    places = [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        places.append((error.filename, error.lineno))
    file, line = ORCHESTRATOR_FILE, 0
    for filename, number in places:
        with contextlib.suppress(ValueError):
            file, line = str(Path(filename).resolve().relative_to(directory.resolve())), number or 0
    remedy = "correct it"
    if isinstance(error, ModuleNotFoundError):
        remedy = "put the module into the bundle, or build an image that has it"
    return bundles.Problem(file, line, 1 if line else 0, "", f"cannot be imported: {describe(error)}", remedy)
