"""What every OCCI microservice of Archelon is made of.

A service is an `Application` with a backend for each kind it offers. Loading this package loads the protocol alone:
databases, metrics and settings live in modules of their own, so that an orchestrator stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archelon_core.version import __version__

if TYPE_CHECKING:
    from .attributes import Attribute as Attribute
    from .registry import InMemoryRegistry as InMemoryRegistry
    from .server.app import Application as Application
    from .server.request import RequestLimits as RequestLimits

__all__ = ["Application", "Attribute", "InMemoryRegistry", "RequestLimits", "__version__"]

_PLACES = {
    "Application": "server.app",
    "Attribute": "attributes",
    "InMemoryRegistry": "registry",
    "RequestLimits": "server.request",
}


def __getattr__(name: str) -> Any:
    # PEP 562: `archelon_api` and `occi_service.client` are imported without the web framework.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
