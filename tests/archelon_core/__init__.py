"""Tests of archelon_core."""
