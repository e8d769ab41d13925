"""What runs an orchestrator in its container: settings, the engine, its HTTP side, reports to the service manager."""
