"""Ready bundles, each to be read as an example."""
