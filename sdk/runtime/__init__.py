"""Runs an orchestrator in its container: the engine, its HTTP adapter, and reports to the service manager."""
