"""Tests of orchestrators: in memory (`Context`), over HTTP (`http_fakes`), and of any program over HTTP (`conformance`)."""

from .unit import INSTANCE, PHASES, TENANT, Context, Stack, State, Supplier

__all__ = ["INSTANCE", "PHASES", "TENANT", "Context", "Stack", "State", "Supplier"]
