"""Tests of cloud_controller.design."""
