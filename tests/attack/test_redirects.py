"""A server that redirects: what was sent to it, token or password, is sent no further."""

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
def stranger() -> Iterator[Listener]:
    with listener() as made:
        yield made


@pytest.fixture
def known(stranger: Listener) -> Iterator[Listener]:
    """The server that is believed, and has begun to send everybody to the stranger."""
    with listener() as made:
        made.redirect = stranger.url
        yield made


def _token(http: Listener) -> str:
    [*_, (_, _, headers)] = http.calls
    return next(value for name, value in headers.items() if name.lower() in ("x-auth-token", "authorization"))


def test_the_client_of_our_own_services_follows_nobody(known: Listener, stranger: Listener) -> None:
    with client.Client(known.url, token="ours") as occi:
        for ask in (
            lambda: occi.get("/stack/1"),
            lambda: occi.exists("/stack/1"),
            lambda: occi.put_bytes("/bundle/1", b"archive", "application/gzip"),
            lambda: occi.delete("/stack/1"),
            lambda: list(occi.list("/stack/")),
        ):
            with pytest.raises(client.RedirectError):
                ask()
    assert _token(known) == "Bearer ours"
    assert stranger.calls == []


def test_keystone_sends_tokens_and_the_password_nowhere(known: Listener, stranger: Listener) -> None:
    keystone = Keystone(known.url)
    with pytest.raises((KeystoneRefusedError, KeystoneDownError)):
        keystone.request("GET", "/auth/tokens", token="ours")
    with pytest.raises((KeystoneRefusedError, KeystoneDownError)):
        keystone.authenticate(ServiceUser("design", "secret"))
    with pytest.raises((InvalidTokenError, ProviderDownError)):
        KeystoneTokens(keystone, roles=RoleMap(), clock=lambda: 0.0).verify("ours")
    assert len(known.calls) == 3
    assert stranger.calls == []


def test_a_providers_own_account_goes_nowhere_else(known: Listener, stranger: Listener, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    tokens = AccountTokens(
        f"{known.url}/v3", username="heat", project_name="heat", password_file=str(password), cacert=None
    )
    with pytest.raises(keystoneauth1.exceptions.ClientException):
        tokens.token(LABELS)
    assert [method for method, _, _ in known.calls] == ["POST"]
    assert stranger.calls == []


class _Tokens:
    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        return "ours"


class _Cloud(HeatConnections):
    """Has its endpoint, as if Keystone had named it."""

    def __init__(self, url: str) -> None:
        super().__init__(_Tokens(), auth_url=f"{url}/v3", region="")
        self.url = url

    def _found(self, token: str, service: str) -> str:
        return self.url


def test_heat_and_designate_send_tenants_tokens_nowhere_else(known: Listener, stranger: Listener) -> None:
    cloud = _Cloud(known.url)
    with pytest.raises(keystoneauth1.exceptions.ClientException, match="gets no token"):
        cloud.call(LABELS, lambda heat: heat.stacks.get("hello"))
    with pytest.raises(keystoneauth1.exceptions.ClientException, match="gets no token"):
        cloud.send(LABELS, "dns", "GET", "/v2/zones")
    catalogue = HeatConnections(_Tokens(), auth_url=f"{known.url}/v3", region="")
    with pytest.raises(keystoneauth1.exceptions.ClientException, match="gets no token"):
        catalogue.send(LABELS, "dns", "GET", "/v2/zones")
    assert len(known.calls) == 3
    assert _token(known) == "ours"
    assert stranger.calls == []


def test_where_heat_leads_to_at_its_own_place_is_followed() -> None:
    """From a stack's name to its id, which is how Heat finds one by name."""
    with listener() as heat:
        answers: list[Any] = []
        cloud = _Cloud(heat.url)
        heat.redirect = f"{heat.url}/once"

        def remember(answer: requests.Response, **_named: Any) -> None:
            answers.append(answer.status_code)
            heat.redirect = ""

        cloud._session.session.hooks["response"].append(remember)
        assert cloud.send(LABELS, "dns", "GET", "/stacks/hello").status_code == 200
        assert answers == [302, 200]
        assert [path for _, path, _ in heat.calls] == ["/stacks/hello", "/once/stacks/hello"]
