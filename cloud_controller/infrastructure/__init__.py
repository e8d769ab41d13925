"""The node engine: from a description (`bundles.infrastructure`) to nodes on a platform.

Input: a description, parameters, and the observed state of the platform. Output: the steps possible now. `resolving` substitutes
values, `planning` compares; neither performs I/O. A node is made of a resource type (`resources`), found by entry point.
"""
