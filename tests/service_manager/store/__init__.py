"""Tests of service_manager.store."""
