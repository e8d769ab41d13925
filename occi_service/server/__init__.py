"""The OCCI server: an `Application` with a backend for each kind, and what assembles a whole service of it."""
