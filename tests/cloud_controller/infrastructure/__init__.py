"""Tests of cloud_controller.infrastructure."""
