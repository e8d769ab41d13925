"""The bundle store: a password that the orchestrator generates."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request

import pytest

from sdk import testing

from .bundles import STORE, Platform, order

ENDPOINT = {"store.endpoint": "http://127.0.0.1:1"}


def test_the_password_is_generated_once_published_and_passed_to_the_stack() -> None:
    context = testing.Context(STORE)
    after = context.run("deploy", testing.State(makes={"store": ENDPOINT}))
    password = after.outputs["store.password"]
    assert len(password) >= 24
    assert after.attributes == {**ENDPOINT, "store.password": password}
    assert after.stack("store").parameters == {"store.limit": 10000, "store.password": password}
    again = context.run("deploy", testing.State(makes={"store": ENDPOINT}, stacks=after.stacks, outputs=after.outputs))
    assert again.outputs == after.outputs
    assert context.run("deploy", testing.State(makes={"store": ENDPOINT})).outputs != after.outputs


class Store:
    def __init__(self, endpoint: str, password: str) -> None:
        self._endpoint = endpoint
        self._authorization = "Basic " + base64.b64encode(f"me:{password}".encode()).decode()

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(self._endpoint + path, body, method=method)
        request.add_header("Authorization", self._authorization)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


def test_it_keeps_values_on_the_local_platform(platform: Platform) -> None:
    wanted = order(STORE, {"store.password": "s3cret", "store.limit": 2})
    done = platform.settle(wanted)
    store = Store(done.outputs["store.endpoint"], "s3cret")
    assert store.call("PUT", "/keys/a%2Fb", b"one") == (204, b"")
    assert store.call("PUT", "/keys/c", b"\x00two") == (204, b"")
    assert store.call("PUT", "/keys/d", b"three")[0] == 507
    assert store.call("PUT", "/keys/c", b"2") == (204, b"")
    assert store.call("GET", "/keys/") == (200, b'["a/b", "c"]')
    assert store.call("GET", "/keys/?prefix=a") == (200, b'["a/b"]')
    assert store.call("GET", "/keys/c") == (200, b"2")
    assert store.call("DELETE", "/keys/c") == (204, b"")
    assert store.call("GET", "/keys/c")[0] == 404
    assert store.call("DELETE", "/keys/c")[0] == 404
    assert store.call("PUT", "/keys/" + "k" * 600, b"")[0] == 404
    assert store.call("PUT", "/keys/c", bytes(70_000))[0] == 413
    assert store.call("GET", "/healthz") == (200, b"ok\n")


@pytest.mark.parametrize("password", ["wrong", "", "s3cret\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_wrong_password_is_refused(platform: Platform, password: str) -> None:
    done = platform.settle(order(STORE, {"store.password": "s3cret", "store.limit": 2}))
    stranger = Store(done.outputs["store.endpoint"], password)
    assert stranger.call("GET", "/keys/")[0] == 401
    assert stranger.call("PUT", "/keys/a", b"mine")[0] == 401
    assert stranger.call("DELETE", "/keys/a")[0] == 401
