"""What tenants, providers, orchestrators and operators ask of the service manager, over OCCI."""
