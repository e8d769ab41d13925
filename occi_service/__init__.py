"""OCCI 1.2: the base of Archelon's OCCI services, and the client.

A service is an `Application` with a backend for each kind. Importing this package loads the protocol alone: databases,
metrics and settings are separate modules, which keeps orchestrators small.
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

_MODULES = {
    "Application": "server.app",
    "Attribute": "attributes",
    "InMemoryRegistry": "registry",
    "RequestLimits": "server.request",
}


def __getattr__(name: str) -> Any:
    # PEP 562: `archelon_api` and `occi_service.client` do not import the web framework.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
