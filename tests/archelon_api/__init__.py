"""Tests of archelon_api."""
