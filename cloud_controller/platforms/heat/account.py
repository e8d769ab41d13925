"""A region in a project of the provider's own: every stack is made there by one user, and tenants need no Keystone.

It suits a provider who pays for what its services run on, and a region beside a local realm. Heat shows whoever may look into
that project the stacks of all tenants, which their tags tell apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from keystoneauth1 import session
from keystoneauth1.identity import v3

from ...core.labels import Labels

#: Seconds before its end at which a token is not used any more.
_MARGIN: Final = 120.0


class AccountTokens:
    """Tokens of one user, whatever instance they are for.

    Args:
        auth_url: of Keystone. username, project_name: whose tokens; user_domain_name, project_domain_name: their domains.
        password_file: file that holds the user's password; read when a token is needed, so that it can be changed.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        auth_url: str,
        *,
        username: str,
        project_name: str,
        password_file: str,
        user_domain_name: str = "Default",
        project_domain_name: str = "Default",
        cacert: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._auth_url = auth_url
        self._names: dict[str, Any] = {
            "username": username,
            "project_name": project_name,
            "user_domain_name": user_domain_name,
            "project_domain_name": project_domain_name,
        }
        self._password = Path(password_file)
        # A redirect would take the password wherever it points.
        self._session = session.Session(verify=cacert or True, timeout=12.0, redirect=False)
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""  # nosec  # none yet
        self._until = 0.0

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        """The user's token."""
        with self._lock:
            if fresh or self._clock() >= self._until:
                password = self._password.read_text(encoding="utf-8").rstrip("\n")
                plugin = v3.Password(auth_url=self._auth_url, password=password, **self._names)
                access = plugin.get_access(self._session)
                self._token = str(access.auth_token)
                self._until = access.expires.timestamp() - _MARGIN if access.expires else 0.0
            return self._token
