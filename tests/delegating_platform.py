"""The local platform as if it were a cloud that is called in tenants' names: every turn of a stack's wheel needs a token.

It stands in tests for the clouds that do, and shows the token to Keystone each time, as they would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archelon_core.auth.keystone_api import Keystone, KeystoneRefusedError
from cloud_controller.platforms.interface import PlatformContext, PlatformTokens, Progress, StackOrder, Stacks
from cloud_controller.platforms.local.factory import LocalPlatform, open_local

_METADATA = "Metadata-Version: 2.1\nName: archelon-delegating\nVersion: 1\n"
_ENTRY = "[archelon.platforms]\ndelegating = tests.delegating_platform:open_delegating\n"


def install(directory: Path) -> Path:
    """Make it a platform that is found by entry point, for whoever has the directory on PYTHONPATH."""
    info = directory / "archelon_delegating-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(_METADATA)
    (info / "entry_points.txt").write_text(_ENTRY)
    return directory


class DelegatingStacks:
    """Stacks that are made, changed and removed in the tenant's name alone."""

    def __init__(self, stacks: Stacks, tokens: PlatformTokens, keystone: Keystone) -> None:
        self._stacks = stacks
        self._tokens = tokens
        self._keystone = keystone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stacks, name)

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """One turn, after a look whether Keystone takes the token."""
        self._show(order)
        return self._stacks.advance(order, record)

    def remains(self, order: StackOrder) -> Sequence[str]:
        """What is left of it."""
        self._show(order)
        return self._stacks.remains(order)

    def _show(self, order: StackOrder) -> None:
        try:
            self._use(self._tokens.token(order.labels), order)
        except KeystoneRefusedError as error:
            # Of a trust that is gone, Keystone says 404.
            if error.status not in (401, 404):
                raise
            self._use(self._tokens.token(order.labels, fresh=True), order)

    def _use(self, token: str, order: StackOrder) -> None:
        projects = self._keystone.request("GET", "/auth/projects", token=token)["projects"]
        assert order.labels.tenant in {each["id"] for each in projects}


def open_delegating(context: PlatformContext, *, keystone: str, **settings: Any) -> LocalPlatform:
    """Open it, with the URL of Keystone; `settings` are the local platform's."""
    opened = open_local(context, **settings)
    opened.delegates = True
    shown_to = Keystone(keystone)
    opened.formats = {
        name: DelegatingStacks(stacks, context.tokens, shown_to) for name, stacks in opened.formats.items()
    }
    return opened
