"""The keys of Archelon's own resource types, one module per type, checked wherever a description is read.

A platform's resource type calls the same function with the implementation that it is to create, and adds what only a region
knows. Types of other packages are unknown here, so their keys are checked only where the package is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..parsing import Checker
from . import pod, process

RESOURCE_TYPES: Final[Mapping[str, Checker]] = {"process": process, "pod": pod}
