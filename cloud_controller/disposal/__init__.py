"""Removes everything with an instance's label, verifies that nothing is left, and sweeps orphans."""
