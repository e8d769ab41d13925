"""Users of a real Keystone, created for one test and deleted after it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

from tests.openstack import Cloud, OpenStack


@dataclasses.dataclass
class Person:
    """A user with roles in one project.

    Attributes:
        cloud: gets tokens as this user.
    """

    id: str
    name: str
    project_id: str
    project_name: str
    cloud: Cloud

    def token(self, **changed: Any) -> str:
        """Return a fresh token for the project."""
        return self.cloud.token(**changed)


class People:
    """Creates users, projects, roles and domains as the administrator of `openstack`, and deletes them."""

    def __init__(self, openstack: OpenStack) -> None:
        self._openstack = openstack
        self._call = openstack.admin.keystone
        self._undo: list[Callable[[], Any]] = []
        self._roles: dict[str, str] = {}

    def close(self) -> None:
        """Delete everything, in reverse order."""
        for undo in reversed(self._undo):
            undo()

    def role(self, name: str) -> str:
        """Return the id of a role; create it if it does not exist."""
        if name not in self._roles:
            found = self._call("GET", f"/roles?name={name}")["roles"]
            if not found:
                found = [self._call("POST", "/roles", {"role": {"name": name}})["role"]]
                self._later("DELETE", f"/roles/{found[0]['id']}")
            self._roles[name] = found[0]["id"]
        return self._roles[name]

    def project(self, *, domain: str = "default") -> dict[str, Any]:
        """Create a project."""
        name = f"p-{uuid.uuid4().hex[:8]}"
        made: dict[str, Any] = self._call("POST", "/projects", {"project": {"name": name, "domain_id": domain}})[
            "project"
        ]
        self._later("DELETE", f"/projects/{made['id']}")
        return made

    def domain(self) -> str:
        """Create a domain, and return its id."""
        name = f"d-{uuid.uuid4().hex[:8]}"
        made = str(self._call("POST", "/domains", {"domain": {"name": name}})["domain"]["id"])
        self._later("DELETE", f"/domains/{made}")
        # Only a disabled domain can be deleted.
        self._later("PATCH", f"/domains/{made}", {"domain": {"enabled": False}})
        return made

    def person(
        self, *roles: str, project: dict[str, Any] | None = None, domain: str = "default", name: str = ""
    ) -> Person:
        """Create a user with roles in a project (by default a new one)."""
        home = project or self.project(domain=domain)
        user = {"name": name or f"u-{uuid.uuid4().hex[:8]}", "password": "secret", "domain_id": domain}
        made = self._call("POST", "/users", {"user": user})["user"]
        self._later("DELETE", f"/users/{made['id']}")
        for role in roles:
            self.grant(made["id"], home["id"], role)
        auth = {
            "auth_url": self._openstack.auth_url,
            "username": made["name"],
            "password": "secret",
            "user_domain_id": domain,
            "project_id": home["id"],
        }
        return Person(made["id"], made["name"], home["id"], home["name"], Cloud(auth, self._openstack.region))

    def grant(self, user: str, project: str, role: str) -> None:
        """Grant a role in a project."""
        self._call("PUT", f"/projects/{project}/users/{user}/roles/{self.role(role)}")

    def take(self, user: str, project: str, role: str) -> None:
        """Revoke a role in a project."""
        self._call("DELETE", f"/projects/{project}/users/{user}/roles/{self.role(role)}")

    def grant_system(self, user: str, role: str) -> None:
        """Grant a role on the whole system."""
        self._call("PUT", f"/system/users/{user}/roles/{self.role(role)}")

    def delete(self, user: str) -> None:
        """Delete a user."""
        self._call("DELETE", f"/users/{user}")

    def enable_project(self, project: str, enabled: bool) -> None:
        """Enable or disable a project."""
        self._call("PATCH", f"/projects/{project}", {"project": {"enabled": enabled}})

    def _later(self, method: str, path: str, document: Any = None) -> None:
        self._undo.append(lambda: self._call(method, path, document, ok=(404,)))
