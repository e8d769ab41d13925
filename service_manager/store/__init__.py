"""What the service manager keeps: instances, published services and their kinds, start tokens."""
