"""Tests of the protocol half of occi_service, through its WSGI callable."""
