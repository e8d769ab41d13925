"""Configures what was deployed."""
