"""Tokens and passwords are not forwarded when a server redirects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keystoneauth1.exceptions
import pytest
import requests

from archelon_core.auth import InvalidTokenError, ProviderDownError
from archelon_core.auth.keystone import KeystoneTokens, RoleMap
from archelon_core.auth.keystone_api import Keystone, KeystoneDownError, KeystoneRefusedError, ServiceUser
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.heat.account import AccountTokens
from cloud_controller.platforms.heat.connection import HeatConnections
from occi_service import client

from .listener import Listener, listener

LABELS = Labels("8b0f3f3e-0000-4000-8000-000000000001", "t-1", "http://schemas.example.org/occi/sm#hello", 1)


@pytest.fixture
def attacker() -> Iterator[Listener]:
    with listener() as made:
        yield made


@pytest.fixture
def trusted(attacker: Listener) -> Iterator[Listener]:
    """A trusted server that redirects all requests to the attacker's."""
    with listener() as made:
        made.redirect = attacker.url
        yield made


def _token(http: Listener) -> str:
    [*_, (_, _, headers)] = http.calls
    return next(value for name, value in headers.items() if name.lower() in ("x-auth-token", "authorization"))


def test_the_occi_client_follows_no_redirect(trusted: Listener, attacker: Listener) -> None:
    with client.Client(trusted.url, token="ours") as occi:
        for ask in (
            lambda: occi.get("/stack/1"),
            lambda: occi.exists("/stack/1"),
            lambda: occi.put_bytes("/bundle/1", b"archive", "application/gzip"),
            lambda: occi.delete("/stack/1"),
            lambda: list(occi.list("/stack/")),
        ):
            with pytest.raises(client.RedirectError):
                ask()
    assert _token(trusted) == "Bearer ours"
    assert attacker.calls == []


def test_keystones_redirects_receive_neither_tokens_nor_the_password(trusted: Listener, attacker: Listener) -> None:
    keystone = Keystone(trusted.url)
    with pytest.raises((KeystoneRefusedError, KeystoneDownError)):
        keystone.request("GET", "/auth/tokens", token="ours")
    with pytest.raises((KeystoneRefusedError, KeystoneDownError)):
        keystone.authenticate(ServiceUser("design", "secret"))
    with pytest.raises((InvalidTokenError, ProviderDownError)):
        KeystoneTokens(keystone, roles=RoleMap(), clock=lambda: 0.0).verify("ours")
    assert len(trusted.calls) == 3
    assert attacker.calls == []


def test_redirects_do_not_receive_the_providers_account(trusted: Listener, attacker: Listener, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    tokens = AccountTokens(
        f"{trusted.url}/v3", username="heat", project_name="heat", password_file=str(password), cacert=None
    )
    with pytest.raises(keystoneauth1.exceptions.ClientException):
        tokens.token(LABELS)
    assert [method for method, _, _ in trusted.calls] == ["POST"]
    assert attacker.calls == []


class _Tokens:
    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        return "ours"


class _Cloud(HeatConnections):
    """Uses a fixed endpoint, as if Keystone's catalogue had named it."""

    def __init__(self, url: str) -> None:
        super().__init__(_Tokens(), auth_url=f"{url}/v3", region="")
        self.url = url

    def _discover(self, token: str, service: str) -> str:
        return self.url


def test_redirects_of_heat_and_designate_do_not_receive_tenants_tokens(trusted: Listener, attacker: Listener) -> None:
    cloud = _Cloud(trusted.url)
    with pytest.raises(keystoneauth1.exceptions.ClientException, match="gets no token"):
        cloud.call(LABELS, lambda heat: heat.stacks.get("hello"))
    with pytest.raises(keystoneauth1.exceptions.ClientException, match="gets no token"):
        cloud.send(LABELS, "dns", "GET", "/v2/zones")
    catalogue = HeatConnections(_Tokens(), auth_url=f"{trusted.url}/v3", region="")
    with pytest.raises(keystoneauth1.exceptions.ClientException, match="gets no token"):
        catalogue.send(LABELS, "dns", "GET", "/v2/zones")
    assert len(trusted.calls) == 3
    assert _token(trusted) == "ours"
    assert attacker.calls == []


def test_heats_redirects_within_its_endpoint_are_followed() -> None:
    """Heat redirects from a stack's name to its id."""
    with listener() as heat:
        answers: list[Any] = []
        cloud = _Cloud(heat.url)
        heat.redirect = f"{heat.url}/once"

        def record(answer: requests.Response, **_named: Any) -> None:
            answers.append(answer.status_code)
            heat.redirect = ""

        cloud._session.session.hooks["response"].append(record)
        assert cloud.send(LABELS, "dns", "GET", "/stacks/hello").status_code == 200
        assert answers == [302, 200]
        assert [path for _, path, _ in heat.calls] == ["/stacks/hello", "/once/stacks/hello"]
