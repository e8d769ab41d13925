"""What the service manager asks of others: the cloud controller's modules, and the orchestrators of its instances."""
