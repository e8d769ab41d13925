"""Tests of cloud_controller.core."""
