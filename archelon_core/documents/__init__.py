"""YAML and JSON documents that people write, read strictly, with line and column of every node for error texts."""
