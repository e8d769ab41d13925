"""Checks large descriptions and manifests in a child process, so that they do not block other requests' threads."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Final

import bundles
from archelon_core.auth.heavy_limit import HEAVY, HeavyRequests
from archelon_core.auth.rate_limit import TooManyRequestsError
from archelon_core.child import Child, ChildError
from bundles.infrastructure.parsing import parse
from bundles.infrastructure.rendering import DescriptionError, Place, Scalar

from .resolving import checked_parameters
from .resources import ResourceType

#: Characters that are parsed within milliseconds, which is not worth a child process.
_SMALL: Final = HEAVY
_REMEDY: Final = "make it smaller, or split it"

#: Limits the threads that wait for the child with a stored description, which a small request may have checked. Together with
#: heavy requests they are fewer than a process has threads.
_CHECKS: Final = HeavyRequests(per_key=1, total=3)
#: One per process, started when it is first needed.
_CHILD: Final = Child()


def check_description(
    text: str,
    *,
    files: Mapping[str, str],
    types: Mapping[str, ResourceType],
    name: str = "template",
    parameters: Mapping[str, Scalar] | None = None,
    tenant: str | None = None,
) -> None:
    """Check that a description is valid and, if parameters are given, that it accepts them.

    A large one is checked in the child, if each type's `check` is a static method. `tenant` is the owner of the stack; None if
    the text came with the request. Raises DescriptionError if it is invalid, TooManyRequestsError if too many are being checked,
    for this tenant or in total.
    """
    small = len(text) + sum(map(len, files.values())) <= _SMALL
    import_paths = None if small else _import_paths(types)
    if import_paths is None:
        description = parse(text, files=files, types=types, name=name)
        if parameters is not None:
            checked_parameters(description, parameters)
        return
    if tenant is not None and not _CHECKS.begin(tenant):
        raise TooManyRequestsError(
            "other large descriptions are being checked; retry in 1 s", headers={"Retry-After": "1"}
        )
    try:
        error = _CHILD.call(
            f"{__name__}:check_here", text, dict(files), import_paths, name, parameters and dict(parameters)
        )
    except ChildError as failure:
        raise DescriptionError(Place(name, 1, 1), f"to check it, {failure}", _REMEDY) from None
    finally:
        if tenant is not None:
            _CHECKS.end(tenant)
    if error is not None:
        place, problem, remedy = error
        raise DescriptionError(Place(*place), problem, remedy)


def check_here(
    text: str, files: dict[str, str], import_paths: dict[str, str], name: str, parameters: dict[str, Scalar] | None
) -> list[Any] | None:
    """Check a description in the child; return the error as place, problem and remedy."""
    types: dict[str, Any] = {}
    for type_name, import_path in import_paths.items():
        module, _, qualified = import_path.partition(":")
        types[type_name] = getattr(importlib.import_module(module), qualified)
    try:
        description = parse(text, files=files, types=types, name=name)
        if parameters is not None:
            checked_parameters(description, parameters)
    except DescriptionError as error:
        place = error.place
        return [[place.file, place.line, place.column], error.problem, error.remedy]
    return None


def _import_paths(types: Mapping[str, ResourceType]) -> dict[str, str] | None:
    """Return how a child imports the types; None if it cannot import them or check with them."""
    found = {}
    for name, each in types.items():
        kind = type(each)
        if not isinstance(inspect.getattr_static(kind, "check", None), staticmethod) or "." in kind.__qualname__:
            return None
        found[name] = f"{kind.__module__}:{kind.__qualname__}"
    return found


def manifest_problems(content: str, *, name: str) -> list[bundles.Problem]:
    """Return the problems of a manifest."""
    try:
        if len(content) <= _SMALL:
            found = manifest_problems_here(content, name)
        else:
            found = _CHILD.call(f"{__name__}:manifest_problems_here", content, name)
    except ChildError as error:
        return [bundles.Problem(name, 0, 0, "", f"to check it, {error}", _REMEDY)]
    return [bundles.Problem(*each) for each in found]


def manifest_problems_here(content: str, name: str) -> list[list[Any]]:
    """Read a manifest in the child; return its problems, each as a list of its fields."""
    try:
        bundles.read_manifest(content, file=name)
    except bundles.BundleError as error:
        return [[each.file, each.line, each.column, each.path, each.message, each.remedy] for each in error.problems]
    return []
