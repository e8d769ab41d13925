"""A region in a project of the provider's own: every stack is made there by one user, and tenants need no Keystone.

It suits a provider who pays for what its services run on, and a region beside a local realm. Heat shows whoever may look into
that project the stacks of all tenants, which their tags tell apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keystoneauth1 import session
from keystoneauth1.identity import v3

from ...core.labels import Labels


class _PasswordFile(v3.Password):
    """Reads the password whenever it authenticates, so that the file may change."""

    def __init__(self, path: Path, **names: Any) -> None:
        super().__init__(password="", **names)  # nosec
        self._path = path

    def get_auth_ref(self, session: session.Session) -> Any:
        [method] = self.auth_methods
        assert isinstance(method, v3.PasswordMethod)
        method.password = self._path.read_text(encoding="utf-8").rstrip("\n")
        return super().get_auth_ref(session)


class AccountTokens:
    """Tokens of one user, whatever instance they are for; keystoneauth keeps one until shortly before its end.

    Args:
        auth_url: of Keystone. username, project_name: whose tokens; user_domain_name, project_domain_name: their domains.
        password_file: file that holds the user's password.
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
    ) -> None:
        self._plugin = _PasswordFile(
            Path(password_file),
            auth_url=auth_url,
            username=username,
            project_name=project_name,
            user_domain_name=user_domain_name,
            project_domain_name=project_domain_name,
        )
        # A redirect would take the password wherever it points.
        self._session = session.Session(verify=cacert or True, timeout=12.0, redirect=False)

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        """The user's token."""
        if fresh:
            self._plugin.invalidate()
        return str(self._plugin.get_token(self._session))
