"""Design's own user in Keystone, and its token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archelon_core.auth.keystone_api import Access, Keystone, KeystoneDownError, KeystoneRefusedError, ServiceUser

from ...design.ports import IdentityDownError


class Account:
    """A Keystone and the user that calls it. Thread-safe."""

    def __init__(self, keystone: Keystone, user: ServiceUser) -> None:
        self.keystone = keystone
        self.user = user
        self._plugin = keystone.plugin(user)

    def access(self, *, fresh: bool = False) -> Access:
        """Return the user's token.

        Raises:
            IdentityDownError: Keystone is unreachable, or rejects the user, which the operator must correct.
        """
        if fresh:
            self._plugin.invalidate()
        try:
            return self.keystone.access(self._plugin)
        except KeystoneDownError as error:
            raise IdentityDownError(str(error)) from None
        except KeystoneRefusedError as error:
            raise IdentityDownError(
                f"Keystone rejects {self.user.name} ({error.status}); check keystone_user"
            ) from None

    def call(self, method: str, path: str, *, document: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """Call Keystone as this user, with a fresh token if the cached one is rejected.

        Raises:
            KeystoneRefusedError: a 4xx response. IdentityDownError: Keystone is unreachable.
        """
        for fresh in (False, True):
            token = self.access(fresh=fresh).token
            try:
                return self.keystone.request(method, path, token=token, document=document, query=query)
            except KeystoneDownError as error:
                raise IdentityDownError(str(error)) from None
            except KeystoneRefusedError as error:
                if error.status != 401 or fresh:
                    raise
        raise AssertionError("unreachable")
