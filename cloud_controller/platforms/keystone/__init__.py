"""Keystone as design's identity service: delegations are trusts, the catalogue is Keystone's own."""
