"""Tokens for a region in the provider's own project: one user creates all stacks there, and tenants need no Keystone.

This suits a provider that pays for the resources of its services, and a region next to a local realm. Everyone with access to
the project sees the stacks of all tenants; their tags tell them apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keystoneauth1 import session
from keystoneauth1.identity import v3

from ...core.labels import Labels


class _PasswordFile(v3.Password):
    """Password authentication that reads the file each time, so that the password may change."""

    def __init__(self, path: Path, **names: Any) -> None:
        super().__init__(password="", **names)  # nosec
        self._path = path

    def get_auth_ref(self, session: session.Session) -> Any:
        [method] = self.auth_methods
        assert isinstance(method, v3.PasswordMethod)
        method.password = self._path.read_text(encoding="utf-8").rstrip("\n")
        return super().get_auth_ref(session)


class AccountTokens:
    """Tokens of one user, shared by all instances; keystoneauth caches one until shortly before it expires.

    Args:
        auth_url: of Keystone. username, project_name: the account; user_domain_name, project_domain_name: their domains.
        password_file: file that contains the user's password.
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
        # A redirect could send the password to another host.
        self._session = session.Session(verify=cacert or True, timeout=12.0, redirect=False)

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        """Return the user's token."""
        if fresh:
            self._plugin.invalidate()
        return str(self._plugin.get_token(self._session))
