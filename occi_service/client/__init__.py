"""OCCI from the other side: what tenants' programs, orchestrators and our own services call one another with."""
