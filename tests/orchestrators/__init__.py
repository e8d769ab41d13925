"""Tests of the ready bundles."""
