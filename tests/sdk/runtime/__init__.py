"""Tests of sdk.runtime."""
