"""Loads a bundle's orchestrator: the one class in its `orchestrator.py`, or the default without that file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import bundles

from ..errors import Failure, describe
from ..orchestrator import Orchestrator

_FILE = "orchestrator.py"
_MODULE = "orchestrator"


def load_class(bundle: bundles.Bundle) -> type[Orchestrator]:
    """Return the class to run.

    Raises:
        Failure: `orchestrator.py` cannot be imported, or has no subclass of `sdk.Orchestrator`, or several.
    """
    if _FILE not in bundle.files:
        return Orchestrator
    module = _imported(bundle.directory / _FILE)
    found = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Orchestrator) and each.__module__ == module.__name__
    ]
    # A class that others derive from is a base, not a second orchestrator.
    ends = [each for each in found if not any(other is not each and issubclass(other, each) for other in found)]
    if len(ends) != 1:
        names = ", ".join(each.__name__ for each in ends) or "none"
        raise Failure(f"{_FILE} must have one class that derives from sdk.Orchestrator; found {names}")
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
    except Exception as error:
        raise Failure(f"{_FILE} cannot be imported: {describe(error)}") from error
    return module
