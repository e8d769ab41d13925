"""Registries: stores of categories, backends and entities."""

from .base import Page, PyssfRegistry, Registry, Selection, as_registry
from .memory import InMemoryRegistry
from .records import EntityRecord

__all__ = ["EntityRecord", "InMemoryRegistry", "Page", "PyssfRegistry", "Registry", "Selection", "as_registry"]
