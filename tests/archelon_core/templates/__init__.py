"""Tests of archelon_core.templates."""
