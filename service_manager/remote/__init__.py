"""The service manager's calls to other services: the cloud controller's modules, and its instances' orchestrators."""
