"""The provision module: configures deployed nodes, and sets DNS records."""
