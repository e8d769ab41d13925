"""The tenant portal: a client of the service manager."""
