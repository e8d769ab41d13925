"""Design's own user at Keystone, and the token that it calls with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from archelon_core.auth.keystone_api import Access, Keystone, KeystoneDownError, KeystoneRefusedError, ServiceUser

from ...design.ports import IdentityDownError

#: Seconds before its end from which a token is replaced.
_AHEAD: Final = 60.0


class Account:
    """A Keystone and the user that calls it. Thread-safe.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, keystone: Keystone, user: ServiceUser, *, clock: Callable[[], float]) -> None:
        self.keystone = keystone
        self.user = user
        self._clock = clock
        self._lock = threading.Lock()
        self._access: Access | None = None

    def access(self, *, fresh: bool = False) -> Access:
        """Its token.

        Raises:
            IdentityDownError: Keystone does not answer, or does not let the user in, which is the operator's to mend.
        """
        with self._lock:
            if fresh or self._access is None or self._access.expires - _AHEAD <= self._clock():
                try:
                    self._access = self.keystone.authenticate(self.user)
                except KeystoneDownError as error:
                    raise IdentityDownError(str(error)) from None
                except KeystoneRefusedError as error:
                    raise IdentityDownError(
                        f"Keystone does not let {self.user.name} in ({error.status}); look at keystone_user"
                    ) from None
            return self._access

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
