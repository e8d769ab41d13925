"""What every OCCI microservice of Archelon is made of.

A service is an `Application` with a backend for each kind it offers. Loading this package loads the protocol alone:
databases, metrics and settings live in modules of their own, so that an orchestrator stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .app import Application as Application
    from .attributes import Attribute as Attribute
    from .exchange import Limits as Limits
    from .registry import InMemoryRegistry as InMemoryRegistry

__all__ = ["Application", "Attribute", "InMemoryRegistry", "Limits", "__version__"]

_PLACES = {"Application": "app", "Attribute": "attributes", "InMemoryRegistry": "registry", "Limits": "exchange"}


def __getattr__(name: str) -> Any:
    # PEP 562: `occi_service.wire` and `occi_service.client` are imported without the web framework.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
