"""Tests of archelon_core.http."""
