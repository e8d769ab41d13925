"""Tests of cloud_controller.disposal."""
