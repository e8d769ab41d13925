"""Design's own user at Keystone, and the token that it calls with."""

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
        """Its token.

        Raises:
            IdentityDownError: Keystone does not answer, or does not let the user in, which is the operator's to mend.
        """
        if fresh:
            self._plugin.invalidate()
        try:
            return self.keystone.access(self._plugin)
        except KeystoneDownError as error:
            raise IdentityDownError(str(error)) from None
        except KeystoneRefusedError as error:
            raise IdentityDownError(
                f"Keystone does not let {self.user.name} in ({error.status}); look at keystone_user"
            ) from None

    def call(self, method: str, path: str, *, document: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """Call Keystone as this user; with a fresh token where the present one is refused.

        Raises:
            KeystoneRefusedError: it answers 4xx. IdentityDownError: it does not answer.
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
        raise AssertionError("either of the two has returned or raised")
