"""Tests of cloud_controller.platforms."""
