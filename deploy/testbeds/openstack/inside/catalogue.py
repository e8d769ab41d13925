"""catalogue.py AUTH_URL PASSWORD REGION NAME=TYPE=URL…: creates Keystone's users, roles and catalogue, unless they exist."""

import sys

from keystoneauth1 import session
from keystoneauth1.identity import v3
from keystoneclient.v3 import client

auth_url, password, region, *entries = sys.argv[1:]
ROLES = ("admin", "member", "reader", "service", "heat_stack_owner", "heat_stack_user")

admin = v3.Password(
    auth_url=auth_url,
    username="admin",
    password=password,
    project_name="admin",
    user_domain_id="default",
    project_domain_id="default",
)
keystone = client.Client(session=session.Session(admin), region_name=region)


def ensure(manager, name, *, domain="default", **values):
    """Return the object of that name; create it if there is none."""
    scope = {} if domain is None else {"domain": domain}
    found = [each for each in manager.list(**scope) if each.name == name]
    return found[0] if found else manager.create(name=name, **scope, **values)


roles = {name: ensure(keystone.roles, name, domain=None) for name in ROLES}
projects = {name: ensure(keystone.projects, name) for name in ("admin", "service", "demo")}
users = {
    "admin": ensure(keystone.users, "admin"),
    "demo": ensure(keystone.users, "demo", password=password, default_project=projects["demo"]),
}
for user, project, granted in (
    ("demo", "demo", ("member", "heat_stack_owner")),
    ("admin", "demo", ("admin", "heat_stack_owner")),
    ("admin", "admin", ("admin", "member", "heat_stack_owner")),
):
    for role in granted:
        keystone.roles.grant(roles[role], user=users[user], project=projects[project])

# Heat has a separate domain for users of its resources.
heat = ensure(keystone.domains, "heat", domain=None)
heat_admin = ensure(keystone.users, "heat_domain_admin", domain=heat, password=password)
keystone.roles.grant(roles["admin"], user=heat_admin, domain=heat)

services = {each.type: each for each in keystone.services.list()}
endpoints = {(each.service_id, each.interface): each for each in keystone.endpoints.list()}
for entry in entries:
    name, service_type, url = entry.split("=", 2)
    user = ensure(keystone.users, name.partition("-")[0], password=password)
    for role in ("admin", "service"):
        keystone.roles.grant(roles[role], user=user, project=projects["service"])
    service = services.get(service_type) or keystone.services.create(name=name, type=service_type)
    for interface in ("public", "internal", "admin"):
        if (service.id, interface) not in endpoints:
            keystone.endpoints.create(service, url, interface=interface, region=region)
