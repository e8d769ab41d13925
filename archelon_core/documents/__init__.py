"""Documents that people write, YAML and JSON: read strictly, with the line and column of every node, so that errors name both."""
