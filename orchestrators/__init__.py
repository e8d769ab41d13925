"""Ready bundles, each an example to read."""
