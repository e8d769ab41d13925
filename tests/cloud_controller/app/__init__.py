"""Tests of cloud_controller.app."""
