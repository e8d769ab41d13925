"""Descriptions of infrastructures in Occopus' language: read and check.

`parsing` reads a text and its files, `rendering` substitutes values. Neither performs I/O or needs a platform: without its
resource types, everything but their own keys is checked. The node engine is `cloud_controller.infrastructure`.
"""
