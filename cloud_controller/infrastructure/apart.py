"""Descriptions and manifests, checked in a child process where they are large: a request's thread would hold up the others'."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Final

import bundles
from archelon_core.auth.heavy_limit import HEAVY, HeavyRequests
from archelon_core.auth.rate_limit import TooManyRequestsError
from archelon_core.child import Child, ChildError

from .parsing import parse
from .rendering import DescriptionError, Place, Scalar
from .resolving import checked_parameters
from .resources import ResourceType

#: Characters that are read in some milliseconds, for which a child is not worth its while.
_SMALL: Final = HEAVY
_REMEDY: Final = "make it smaller, or split it"

#: Who is at the child, or waits for it, with a description that is here already: a small request may have it checked. With those
#: whose requests are heavy they are fewer than a process has threads.
_TURNS: Final = HeavyRequests(per_key=1, total=3)
#: One of each process, started when it is first needed.
_CHILD: Final = Child()


def check_description(
    text: str,
    *,
    files: Mapping[str, str],
    types: Mapping[str, ResourceType],
    name: str = "template",
    parameters: Mapping[str, Scalar] | None = None,
    whose: str | None = None,
) -> None:
    """See that a description is right, and that it takes the parameters where there are any.

    Args:
        types: of the platform. One whose `check` is a static method is checked in the child; with others, all is done here.

        whose: of which tenant's stack; None where its text came with the request.

    Raises:
        DescriptionError: it is not.
        TooManyRequestsError: others of this tenant, or enough of all, are being checked.
    """
    small = len(text) + sum(map(len, files.values())) <= _SMALL
    ways = None if small else _ways(types)
    if ways is None:
        description = parse(text, files=files, types=types, name=name)
        if parameters is not None:
            checked_parameters(description, parameters)
        return
    if whose is not None and not _TURNS.begin(whose):
        raise TooManyRequestsError(
            "Other large descriptions are being checked. Try again in 1 s.", headers={"Retry-After": "1"}
        )
    try:
        wrong = _CHILD.call(f"{__name__}:check_here", text, dict(files), ways, name, parameters and dict(parameters))
    except ChildError as error:
        raise DescriptionError(Place(name, 1, 1), f"to check it, {error}", _REMEDY) from None
    finally:
        if whose is not None:
            _TURNS.end(whose)
    if wrong is not None:
        place, problem, remedy = wrong
        raise DescriptionError(Place(*place), problem, remedy)


def check_here(
    text: str, files: dict[str, str], ways: dict[str, str], name: str, parameters: dict[str, Scalar] | None
) -> list[Any] | None:
    """In the child: what is wrong, as place, problem and remedy."""
    types: dict[str, Any] = {}
    for word, way in ways.items():
        module, _, qualified = way.partition(":")
        types[word] = getattr(importlib.import_module(module), qualified)
    try:
        description = parse(text, files=files, types=types, name=name)
        if parameters is not None:
            checked_parameters(description, parameters)
    except DescriptionError as error:
        place = error.place
        return [[place.file, place.line, place.column], error.problem, error.remedy]
    return None


def _ways(types: Mapping[str, ResourceType]) -> dict[str, str] | None:
    """How a child imports the types; None where it could not, or could not check with them."""
    found = {}
    for word, each in types.items():
        kind = type(each)
        if not isinstance(inspect.getattr_static(kind, "check", None), staticmethod) or "." in kind.__qualname__:
            return None
        found[word] = f"{kind.__module__}:{kind.__qualname__}"
    return found


def manifest_problems(content: str, *, name: str) -> list[bundles.Problem]:
    """What is wrong with a manifest."""
    if len(content) <= _SMALL:
        return _problems(manifest_problems_here(content, name))
    try:
        found = _CHILD.call(f"{__name__}:manifest_problems_here", content, name)
    except ChildError as error:
        return [bundles.Problem(name, 0, 0, "", f"to check it, {error}", _REMEDY)]
    return _problems(found)


def _problems(found: list[list[Any]]) -> list[bundles.Problem]:
    return [bundles.Problem(*each) for each in found]


def manifest_problems_here(content: str, name: str) -> list[list[Any]]:
    """In the child: the problems, each as a list of its fields."""
    try:
        bundles.read_manifest(content, file=name)
    except bundles.BundleError as error:
        return [[each.file, each.line, each.column, each.path, each.message, each.remedy] for each in error.problems]
    return []
