"""The token is sent to the configured host in one header field, and appears in no text, repr or log."""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest

from occi_service import client

from .scripted import Script, Scripted, answer, raw, reset

TOKEN = "very+secret/token=="
SUBJECT = "another-secret"


def make(url: str, **named: object) -> client.Client:
    return client.Client(
        url,
        token=TOKEN,
        headers={"X-Subject-Token": SUBJECT},
        retry=client.Retry(attempts=2, base=0),
        **named,  # type: ignore[arg-type]
    )


def test_fields_of_a_request() -> None:
    done = answer("200 OK\r\nAllow: GET")
    with Scripted(done, done, done) as server:
        with client.Client(server.url, token=TOKEN, request_id="r-1", tenant_name="acme") as occi:
            occi.methods("/a")
        with client.Client(
            server.url, token=lambda: TOKEN, token_field="X-Auth-Token", request_id=lambda: "r-2"
        ) as occi:
            occi.methods("/a")
            occi.using(token="other", headers={"X-Subject-Token": SUBJECT}).methods("/a")
        fields = [each.split("\r\n") for each in server.requests]
    assert f"Authorization: Bearer {TOKEN}" in fields[0]
    assert "X-Request-Id: r-1" in fields[0]
    assert "X-Tenant-Name: acme" in fields[0]
    assert "User-Agent: archelon/0.1.0 OCCI/1.2" in fields[0]
    assert f"X-Auth-Token: {TOKEN}" in fields[1]
    assert "X-Request-Id: r-2" in fields[1]
    assert not any(line.startswith("Authorization") for line in fields[1])
    assert "X-Auth-Token: other" in fields[2]
    assert f"X-Subject-Token: {SUBJECT}" in fields[2]


def test_a_token_callable_is_called_for_each_attempt() -> None:
    given = iter(["first", "second"])
    with Scripted(reset(), answer("200 OK")) as server:
        retry = client.Retry(attempts=2, base=0)
        with client.Client(server.url, token=lambda: next(given), retry=retry) as occi:
            occi.methods("/a")
        assert "Bearer first" in server.requests[0]
        assert "Bearer second" in server.requests[1]


ECHOES: dict[str, Script] = {
    "text": answer(
        "401 Unauthorized\r\nContent-Type: text/plain", f"401 No: {TOKEN} is not {SUBJECT} ({TOKEN})".encode()
    ),
    "json": answer(
        "403 Forbidden\r\nContent-Type: application/occi+json",
        f'{{"error": {{"title": "{TOKEN}", "message": "{TOKEN} {SUBJECT}", "where": "{TOKEN}"}}}}'.encode(),
    ),
    "encoded": answer("400 Bad Request", f"no {quote(TOKEN, safe='')}".encode()),
    "html": answer("400 Bad Request\r\nContent-Type: text/html", f"<title>{TOKEN}</title>".encode()),
    "long": answer("400 Bad Request", b"x" * 1995 + TOKEN.encode()),
    "redirect": answer(f"302 Found\r\nLocation: http://elsewhere.example.org/{TOKEN}?{TOKEN}"),
    "garbage": raw(f"{TOKEN}\r\n\r\n".encode()),
    "malformed": answer("200 OK\r\nContent-Type: application/x-" + TOKEN, b"{"),
    "malformed text": answer("200 OK\r\nContent-Type: text/plain", f"Category: {TOKEN}".encode()),
    "malformed header": answer(f"200 OK\r\nX: y\r\n{TOKEN} no header\r\nContent-Type: text/plain", b"OK"),
    "malformed and cut": answer("200 OK\r\nContent-Type: text/plain", f"Category: a; b={'x' * 10}{TOKEN}".encode()),
    "reset": reset(),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_no_error_shows_the_token(echo: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Scripted(ECHOES[echo], ECHOES[echo]) as server, make(server.url) as occi:
        with pytest.raises(client.ClientError) as caught:
            occi.get(f"/a?key={TOKEN}")
        assert f"Bearer {TOKEN}" in server.requests[0]
    error = caught.value
    shown = [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error)), caplog.text]
    for text in shown:
        for secret in (TOKEN, SUBJECT, quote(TOKEN, safe=""), "very+sec"):
            assert secret not in text


def test_no_repr_shows_the_token() -> None:
    with make("http://127.0.0.1:1") as occi:
        exchange = occi._exchange
        for each in (occi, exchange, exchange.credentials, copy.copy(exchange.credentials), occi.using(token=TOKEN)):
            assert TOKEN not in repr(each)
            assert SUBJECT not in repr(each)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: client.Client("http://h", token=TOKEN + "\r\nX: y"),
        lambda: client.Client("http://h", token=TOKEN + "\N{EURO SIGN}"),
        lambda: client.Client("http://h", token=""),
        lambda: client.Client("http://h", headers={"X-Subject-Token": SUBJECT + "\n"}),
        lambda: client.Client("http://h", token=lambda: TOKEN + "\n").exists("/a"),
        lambda: client.Client(f"http://user:{TOKEN}@h"),
        lambda: client.Client(f"ftp://h/?{TOKEN}"),
        lambda: client.Client("http://h", request_id="a\r\nb").exists("/a"),
        lambda: client.Client("http://h", headers={"X Y": "z"}),
    ],
)
def test_invalid_header_values_are_refused_without_showing_them(operation: Callable[[], object]) -> None:
    with pytest.raises(ValueError) as caught:
        operation()
    text = "".join(traceback.format_exception(caught.value, chain=True)[-1:])
    assert TOKEN not in text
    assert SUBJECT not in text
