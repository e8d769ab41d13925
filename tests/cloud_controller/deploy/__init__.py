"""Tests of cloud_controller.deploy."""
