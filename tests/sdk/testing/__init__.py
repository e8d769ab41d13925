"""Tests of sdk.testing."""
