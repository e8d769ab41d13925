"""The store's orchestrator: the default one, and a generated password."""

from __future__ import annotations

import secrets

import sdk


class Store(sdk.Orchestrator):
    """A store with a password that is generated once."""

    def deploy(self) -> None:
        """Generate the password: entries of `outputs` are attributes of the instance, and parameters of the template."""
        self.outputs.setdefault("store.password", secrets.token_urlsafe(24))
        super().deploy()
