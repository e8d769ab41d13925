"""The local platform: orchestrators and nodes as processes of one machine.

No imports here: the supervisor of every process imports this package, so each import would cost once per process.
"""
