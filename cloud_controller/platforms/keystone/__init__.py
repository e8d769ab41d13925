"""Keystone as design's identity service: delegations are trusts, and the catalogue is synchronized."""
