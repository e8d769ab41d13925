"""Shared by the five modules: rows of resources, bases of backends and handlers, notifications of orchestrators."""
