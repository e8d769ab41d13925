"""The OCCI interface of the service manager for tenants, providers, orchestrators and operators."""
