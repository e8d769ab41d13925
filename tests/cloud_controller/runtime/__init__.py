"""Tests of cloud_controller.runtime."""
