"""The local platform: orchestrators and the nodes of descriptions run as processes of one machine.

Nothing is imported here: every supervised process has a supervisor that imports this package, and each of its imports would be
paid once per process.
"""
