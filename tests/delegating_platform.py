"""The local platform as a cloud that is called in tenants' names: every reconcile iteration of a stack needs a token.

It replaces such clouds in tests, and validates the token at Keystone each time, as they would.
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
    """Register the platform as an entry point, for processes with the directory on PYTHONPATH."""
    info = directory / "archelon_delegating-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(_METADATA)
    (info / "entry_points.txt").write_text(_ENTRY)
    return directory


class DelegatingStacks:
    """Stacks that are created, changed and removed only with the tenant's token."""

    def __init__(self, stacks: Stacks, tokens: PlatformTokens, keystone: Keystone) -> None:
        self._stacks = stacks
        self._tokens = tokens
        self._keystone = keystone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stacks, name)

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """Run one reconcile iteration, after Keystone has accepted the token."""
        self._authenticate(order)
        return self._stacks.advance(order, record)

    def remains(self, order: StackOrder) -> Sequence[str]:
        """Return what is left of the stack."""
        self._authenticate(order)
        return self._stacks.remains(order)

    def _authenticate(self, order: StackOrder) -> None:
        try:
            self._use(self._tokens.token(order.labels), order)
        except KeystoneRefusedError as error:
            # Keystone returns 404 for a deleted trust.
            if error.status not in (401, 404):
                raise
            self._use(self._tokens.token(order.labels, fresh=True), order)

    def _use(self, token: str, order: StackOrder) -> None:
        projects = self._keystone.request("GET", "/auth/projects", token=token)["projects"]
        assert order.labels.tenant in {each["id"] for each in projects}


def open_delegating(context: PlatformContext, *, keystone: str, **settings: Any) -> LocalPlatform:
    """Create the platform with Keystone's URL; `settings` are the local platform's."""
    platform = open_local(context, **settings)
    platform.delegates = True
    validator = Keystone(keystone)
    platform.formats = {
        name: DelegatingStacks(stacks, context.tokens, validator) for name, stacks in platform.formats.items()
    }
    return platform
