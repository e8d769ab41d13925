"""Tests of service_manager.lifecycle."""
