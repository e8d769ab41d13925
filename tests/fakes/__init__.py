"""Stand-ins for what the service under test talks to: real processes over HTTP, with books, and with faults on request."""
