"""The fake cloud in a process of its own: real HTTP, orchestrators, a journal, and faults on request."""
