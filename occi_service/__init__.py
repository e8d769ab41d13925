"""What every OCCI microservice of Archelon is made of."""
