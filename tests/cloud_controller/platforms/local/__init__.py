"""Tests of cloud_controller.platforms.local."""
