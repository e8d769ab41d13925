"""Delegations in a real Keystone, and users who order."""

from __future__ import annotations

import time

from archelon_core import auth
from archelon_core.auth.keystone import KeystoneTokens, RoleMap
from archelon_core.auth.keystone_api import Keystone, ServiceUser
from cloud_controller.platforms.keystone.account import Account
from cloud_controller.platforms.keystone.delegations import KeystoneDelegations
from tests.keystone_people import People, Person
from tests.openstack import OpenStack


class KeystoneProvider:
    """A `delegation_contract.Provider`.

    Args:
        service: design's own user.
    """

    def __init__(self, openstack: OpenStack, people: People, service: Person) -> None:
        self._openstack = openstack
        self.people = people
        self.keystone = Keystone(openstack.keystone_url)
        # Only the role service: delegations need no permissions beyond those that tenants delegate.
        user = ServiceUser(service.name, "secret", project=service.project_name)
        account = Account(self.keystone, user)
        self.delegations = KeystoneDelegations(account)
        self.verify = KeystoneTokens(
            self.keystone, roles=RoleMap(), clock=time.time, own=lambda: account.access().token
        ).verify

    def order(self) -> tuple[str, auth.PresentedToken]:
        self.person = self.people.person("member")
        return self.person.project_id, auth.PresentedToken(self.person.token())

    def another(self) -> auth.PresentedToken:
        project = {"id": self.person.project_id, "name": self.person.project_name}
        return auth.PresentedToken(self.people.person("member", project=project).token())

    def revoke(self, token: auth.PresentedToken) -> None:
        secret = token.reveal()
        self.keystone.request("DELETE", "/auth/tokens", token=secret, headers={"X-Subject-Token": secret})

    def delete_user(self) -> None:
        self.people.delete(self.person.id)

    def take_roles(self) -> None:
        self.people.take(self.person.id, self.person.project_id, "member")

    def remove_tenant(self) -> None:
        self.people.enable_project(self.person.project_id, False)
