"""The OCCI server: an `Application` with a backend for each kind, and the assembly of a complete service."""
