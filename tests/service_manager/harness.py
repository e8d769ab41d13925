"""A service manager for tests: real processes or, in one process, its WSGI application and a worker that is stepped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import bundles
from occi_service import client
from occi_service.encryption import generate_key
from occi_service.identity import RealmFile, Role, SigningKey, write_jwk_set
from service_manager.settings import ServiceManagerSettings

ISSUER = "service-manager"
TYPE = "http://schemas.example.org/occi/sm#demo"
MANIFEST: dict[str, Any] = {
    "service_type": TYPE,
    "service_description": "a service for tests",
    "version": "1",
    "service_attributes": {
        "mcn.endpoint.p1": "immutable",
        "demo.size": {"type": "number", "default": 1},
        "demo.password": {"secret": True},
    },
    "service_actions": {"poke": {"title": "Poke it", "attributes": {"force": {"type": "number"}}}},
    "templates": {"infrastructure": {"deployment": "deployment.yaml"}},
}
TEMPLATE = "infra_name: demo\nnodes: []\n"


class Realm:
    """A realm file with a tenant, another tenant, a provider and an operator, and their tokens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        realm = RealmFile(path, time.time)
        self.tokens: dict[str, str] = {}
        for tenant in ("acme", "umbrella"):
            realm.add_tenant(tenant, name=tenant)
        for user, tenant, role in (
            ("alice", "acme", Role.TENANT),
            ("reader", "acme", Role.READ_ONLY),
            ("bob", "umbrella", Role.TENANT),
            ("provider", "acme", Role.PROVIDER),
            ("operator", "acme", Role.OPERATOR),
        ):
            realm.add_user(user, roles={tenant: [role]})
            self.tokens[user] = realm.issue_token(user, tenant=tenant, lifetime=None).token
