"""The store's orchestrator: the default one, and a password that nobody has to think of."""

from __future__ import annotations

import secrets

import sdk


class Store(sdk.Orchestrator):
    """A store whose password is made with it and stays for its life."""

    def deploy(self) -> None:
        """What is in `outputs` is an attribute of the instance and, like all attributes, a parameter of the template."""
        self.outputs.setdefault("store.password", secrets.token_urlsafe(24))
        super().deploy()
