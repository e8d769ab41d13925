"""What a service manager does for providers, tenants and operators."""
