"""Tests of service_manager.remote."""
