"""The service manager's storage: instances, published services and their kinds, start tokens."""
