"""Tests of the service manager's OCCI interface for providers, tenants and operators."""
