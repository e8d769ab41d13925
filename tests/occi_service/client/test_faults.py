"""The client's retries, timeouts and errors when the network or the server fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from occi_service import client
from tests.certificates import server_context
from tests.ports import closed_port
from tests.waiting import until

from .scripted import Script, Scripted, answer, drip, raw, reset

KIND = "http://example.org/occi/test#thing"
OK_ENTITY = answer(
    "200 OK\r\nContent-Type: application/occi+json", b'{"kind": "http://example.org/occi/test#thing", "id": "/thing/1"}'
)
DONE = answer("200 OK\r\nContent-Type: application/occi+json", b"{}")
Request = Callable[[client.Client], object]


class Waits:
    """A clock that only advances by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def make(
    server: Scripted, waits: Waits, *, total: float = 60.0, attempts: int = 4, limit: int = 1 << 20
) -> client.Client:
    return client.Client(
        server.url,
        token="secret-token",
        # The server's threads run in this process: if it is suspended for a while, the server is not at fault.
        timeout=client.Timeout(connect=30, read=30, total=total),
        retry=client.Retry(attempts=attempts, base=0.5, cap=2.0),
        limit=limit,
        clock=waits.clock,
        sleep=waits.sleep,
        random=lambda: 0.5,
    )


def get(occi: client.Client) -> object:
    return occi.get("/thing/1")


IDEMPOTENT: dict[str, Request] = {
    "GET": get,
    "HEAD": lambda occi: occi.exists("/thing/1"),
    "OPTIONS": lambda occi: occi.methods("/thing/1"),
    "PUT": lambda occi: occi.put("/thing/1", KIND),
    "DELETE": lambda occi: occi.delete("/thing/1"),
}
POSTS: dict[str, Request] = {
    "create": lambda occi: occi.create(KIND, at="/thing/"),
    "update": lambda occi: occi.update("/thing/1", {"a": 1}),
    "act": lambda occi: occi.act("/thing/1", "http://example.org/occi/test/action#colour"),
    "invoke": lambda occi: occi.invoke("/thing/1", "http://example.org/occi/test/action#colour"),
    "act on all": lambda occi: occi.act_on_all("/thing/", "http://example.org/occi/test/action#colour"),
    "attach": lambda occi: occi.attach("/tagged/", ["/thing/1"]),
    "define": lambda occi: occi.define_mixin("http://example.org/mine#tag", "/tag/"),
}
FAULTS: dict[str, Script] = {
    "reset before the status line": reset(),
    "closed before the status line": raw(b""),
    "closed in the status line": raw(b"HTTP/1.1 20"),
    "reset after the status line": reset(b"HTTP/1.1 200 OK\r\n"),
    "reset in the body": reset(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    "truncated body": raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/occi+json\r\nContent-Length: 100\r\n\r\n{}"),
    "truncated chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{}"),
    "garbage": raw(b"\x00\xff garbage\r\n\r\n"),
    "503": answer("503 Service Unavailable"),
    "502": answer("502 Bad Gateway"),
    "429": answer("429 Too Many Requests"),
}
#: A HEAD has no body that could break.
IMPOSSIBLE = [("HEAD", each) for each in ("reset in the body", "truncated body", "truncated chunk")]


@pytest.mark.parametrize(
    ("method", "fault"), [each for each in itertools.product(IDEMPOTENT, FAULTS) if each not in IMPOSSIBLE]
)
def test_idempotent_requests_are_retried(method: str, fault: str) -> None:
    waits = Waits()
    with Scripted(FAULTS[fault], FAULTS[fault], OK_ENTITY) as server, make(server, waits) as occi:
        IDEMPOTENT[method](occi)
        assert [each.partition(" ")[0] for each in server.requests] == [method] * 3
    assert waits.slept == [0.5, 1.0]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", POSTS)
def test_a_post_is_sent_once(method: str, fault: str) -> None:
    waits = Waits()
    with Scripted(FAULTS[fault]) as server, make(server, waits) as occi:
        with pytest.raises((client.TransportError, client.UnavailableError, client.TooManyRequestsError)):
            POSTS[method](occi)
        assert len(server.requests) == 1
    assert waits.slept == []


def test_a_post_is_retried_if_requested() -> None:
    waits = Waits()
    made = answer("201 Created\r\nLocation: /thing/1")
    with Scripted(reset(), made, reset(), OK_ENTITY) as server, make(server, waits) as occi:
        assert occi.create(KIND, at="/thing/", retry=True) == "/thing/1"
        occi.update("/thing/1", {"a": 1}, retry=True)
        assert len(server.requests) == 4


@pytest.mark.parametrize("fault", ["reset before the status line", "truncated body", "502"])
def test_a_conditional_write_with_a_lost_response_is_not_retried(fault: str) -> None:
    waits = Waits()
    with Scripted(FAULTS[fault]) as server, make(server, waits) as occi:
        with pytest.raises((client.TransportError, client.UnavailableError)):
            occi.delete("/thing/1", if_match='"a"')
        assert len(server.requests) == 1


def test_an_unprocessed_conditional_write_is_retried() -> None:
    waits = Waits()
    with Scripted(answer("503 Service Unavailable"), DONE) as server, make(server, waits) as occi:
        occi.delete("/thing/1", if_match='"a"')
        assert len(server.requests) == 2


def test_bodies_in_pieces_are_sent_once() -> None:
    waits = Waits()
    with Scripted(answer("503 Service Unavailable")) as server, make(server, waits) as occi:
        # The server does not read the chunked body.
        with pytest.raises(client.ClientError):
            occi.put_bytes("/bundle/1", iter([b"one", b"two"]), "application/gzip")
        assert len(server.requests) == 1


def test_attempts_are_limited() -> None:
    waits = Waits()
    with Scripted(*[reset()] * 4) as server, make(server, waits) as occi:
        with pytest.raises(client.TransportError) as caught:
            get(occi)
        assert len(server.requests) == 4
    assert caught.value.attempts == 4
    assert "tried 4 times" in str(caught.value)
    assert waits.slept == [0.5, 1.0, 1.0]


def test_a_retried_delete_accepts_404() -> None:
    missing = answer("404 Not Found")
    with Scripted(reset(), missing) as server, make(server, Waits()) as occi:
        occi.delete("/thing/1")
        assert len(server.requests) == 2
    with Scripted(missing) as server, make(server, Waits()) as occi, pytest.raises(client.NotFoundError):
        occi.delete("/thing/1")
    # 503 means that the request was not processed, so that 404 is the result.
    with (
        Scripted(answer("503 Unavailable"), missing) as server,
        make(server, Waits()) as occi,
        pytest.raises(client.NotFoundError),
    ):
        occi.delete("/thing/1")


def test_retry_after_is_respected() -> None:
    waits = Waits()
    with Scripted(answer("503 Unavailable\r\nRetry-After: 7"), OK_ENTITY) as server, make(server, waits) as occi:
        get(occi)
    assert waits.slept == [7.25]


def test_retry_after_as_a_date() -> None:
    waits = Waits()
    dates = "Date: Fri, 20 Nov 2026 12:00:00 GMT\r\nRetry-After: Fri, 20 Nov 2026 12:00:09 GMT"
    with Scripted(answer(f"503 Unavailable\r\n{dates}"), OK_ENTITY) as server, make(server, waits) as occi:
        get(occi)
    assert waits.slept == [9.25]


def test_retry_after_beyond_the_deadline_ends_the_call_at_once() -> None:
    waits = Waits()
    busy = answer("503 Unavailable\r\nRetry-After: 7", b"503 Service Unavailable: the store is away (database)")
    with Scripted(busy) as server, make(server, waits, total=5) as occi:
        with pytest.raises(client.UnavailableError) as caught:
            get(occi)
        assert len(server.requests) == 1
    assert waits.slept == []
    assert caught.value.retry_after == 7
    assert caught.value.message == "the store is away"
    assert caught.value.where == "database"


def test_retries_stop_at_the_deadline() -> None:
    waits = Waits()
    with Scripted(*[reset()] * 9) as server, make(server, waits, total=2, attempts=9) as occi:
        with pytest.raises(client.TransportError):
            get(occi)
        assert len(server.requests) == 3
    assert waits.now < 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 409, 412, 413, 415, 418, 500, 501])
def test_a_refusal_is_final(status: int) -> None:
    body = b'{"error": {"status": 1, "title": "T", "message": "M", "where": "W"}}'
    with Scripted(answer(f"{status} X\r\nContent-Type: application/occi+json", body)) as server:
        with make(server, Waits()) as occi, pytest.raises(client.StatusError) as caught:
            get(occi)
        assert len(server.requests) == 1
    error = caught.value
    assert (error.status, error.title, error.message, error.where) == (status, "T", "M", "W")
    assert (error.method, error.url) == ("GET", server.url + "/thing/1")


@pytest.mark.parametrize("where", ["in the head", "in the body", "in a chunk"])
def test_the_deadline_holds_against_a_server_that_drips(where: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    scripts: dict[str, tuple[bytes, bytes]] = {
        "in the head": (b"", head * 10),
        "in the body": (head, b"x" * 1000),
        "in a chunk": (chunked + b"0", b"0" * 1000),
    }
    first, rest = scripts[where]

    def play(connection: object, stop: threading.Event) -> None:
        connection.sendall(first)  # type: ignore[attr-defined]
        drip(rest, 0.02)(connection, stop)  # type: ignore[arg-type]

    with Scripted(play) as server:
        timeout = client.Timeout(connect=30, read=30, total=1)
        with client.Client(server.url, timeout=timeout) as occi:
            started = time.monotonic()
            with pytest.raises(client.TimedOutError, match="longer than 1 seconds"):
                get(occi)
            # The server would continue for 20 s; a busy machine may notice the deadline late.
            assert 0.9 < time.monotonic() - started < 15
        until(lambda: server.requests, "the request arrived")
        assert len(server.requests) == 1


def test_a_silent_server_times_out() -> None:
    with Scripted(raw(b"HTTP/1.1 200 OK\r\n", hang=True), raw(b"", hang=True)) as server:
        timeout = client.Timeout(connect=30, read=0.1, total=None)
        with (
            client.Client(server.url, timeout=timeout, retry=client.Retry(attempts=2, base=0)) as occi,
            pytest.raises(client.TimedOutError, match="the response timed out"),
        ):
            get(occi)
        # The client did not wait until the server had read them.
        until(lambda: len(server.requests) >= 2, "the requests arrived")
        assert len(server.requests) == 2


def test_follow_times_out_when_idle() -> None:
    with (
        Scripted(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", hang=True)) as server,
        client.Client(server.url) as occi,
    ):
        # Long enough for the first piece, which arrives at once.
        pieces = occi.follow("/log", idle=1.0)
        assert next(pieces) == "one"
        with pytest.raises(client.TimedOutError):
            next(pieces)


@pytest.mark.parametrize(
    "script",
    [
        answer("200 OK", b"x" * 2000),
        raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"),
        answer("500 Slip", b"x" * 2000),
    ],
    ids=["length", "close", "chunked", "error"],
)
def test_a_response_beyond_the_limit_is_not_read(script: Script) -> None:
    with Scripted(script) as server, make(server, Waits(), limit=1000) as occi:
        with pytest.raises(client.AnswerTooLargeError, match="1000 bytes"):
            get(occi)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Type: application/occi+json", b"{"),
        ("Content-Type: application/occi+json", b"{}x"),
        ("Content-Type: application/occi+json", b'{"id": "/thing/1"}'),
        ("Content-Type: application/occi+json", b"\xff"),
        ("Content-Type: text/plain", b"Category: x"),
        ("Content-Type: text/occi\r\nCategory: x", b"OK"),
        ("Content-Type: text/html", b"<html>login</html>"),
        ("Content-Type: text/uri-list", b"/thing/1"),
    ],
)
def test_a_malformed_response_raises(headers: str, body: bytes) -> None:
    with Scripted(answer(f"200 OK\r\n{headers}", body)) as server, make(server, Waits()) as occi:
        with pytest.raises(client.MalformedAnswerError) as caught:
            get(occi)
        assert len(server.requests) == 1
    assert caught.value.url == server.url + "/thing/1"


def test_an_unknown_kind_is_looked_up_once() -> None:
    body = b'{"resources": [{"kind": "http://example.org/a#b", "id": "urn:uuid:1"}]}'
    found = answer("200 OK\r\nContent-Type: application/occi+json", body)
    with Scripted(found, DONE, found) as server, make(server, Waits()) as occi:
        for _ in range(2):
            with pytest.raises(client.MalformedAnswerError, match="has no location for the kind"):
                list(occi.list("/thing/"))
        assert [each.split()[1].partition("?")[0] for each in server.requests] == ["/thing/", "/-/", "/thing/"]


def test_redirects_are_not_followed() -> None:
    with Scripted() as elsewhere:
        moved = answer(f"307 Temporary Redirect\r\nLocation: {elsewhere.url}/thing/1?key=hidden")
        with (
            Scripted(moved) as server,
            make(server, Waits()) as occi,
            pytest.raises(client.RedirectError, match="not followed") as caught,
        ):
            get(occi)
        assert elsewhere.connections == 0
    assert caught.value.location == f"{elsewhere.url}/thing/1"
    assert "hidden" not in str(caught.value)


def test_a_location_on_another_host_becomes_a_local_path() -> None:
    with Scripted(answer("201 Created\r\nLocation: http://elsewhere.example.org/thing/7"), OK_ENTITY) as server:
        with make(server, Waits()) as occi:
            path = occi.create(KIND, at="/thing/")
            assert path == "/thing/7"
            occi.get(path)
        assert server.requests[1].startswith("GET /thing/7 ")


def test_a_server_without_pages_is_listed_once() -> None:
    everything = answer("200 OK\r\nContent-Type: text/uri-list", b"/thing/1\r\n/thing/2\r\n")
    with Scripted(everything, everything) as server, make(server, Waits()) as occi:
        assert list(occi.locations("/thing/", number=2)) == ["/thing/1", "/thing/2"]


def test_pages_follow_the_links_at_the_same_path() -> None:
    listed = "200 OK\r\nContent-Type: text/uri-list"
    linked = f'{listed}\r\nLink: <http://elsewhere.example.org/other/?number=2&after=a%26b>; rel="next"'
    pages = [
        answer(linked, b"/thing/1\r\n/thing/2\r\n"),
        # Some that the caller may not see are left out.
        answer(linked, b"/thing/3\r\n"),
        answer(listed, b"/thing/4\r\n/thing/5\r\n"),
    ]
    with Scripted(*pages) as server, make(server, Waits()) as occi:
        assert list(occi.locations("/thing/", number=2)) == [f"/thing/{number}" for number in range(1, 6)]
        assert [request.split(" ")[1] for request in server.requests] == [
            "/thing/?page=1&number=2",
            "/thing/?after=a%26b&number=2",
            "/thing/?after=a%26b&number=2",
        ]


def test_a_get_follows_a_response_without_content() -> None:
    with Scripted(answer("200 OK\r\nContent-Type: text/plain", b"OK"), OK_ENTITY) as server:
        with make(server, Waits()) as occi:
            assert occi.update("/thing/1", {"a": 1}).kind == KIND
        assert server.requests[1].startswith("GET /thing/1 ")


@pytest.mark.parametrize("pieces", [True, False], ids=["pieces", "bytes"])
def test_a_refusal_before_the_body_was_read_is_reported(pieces: bool) -> None:
    refusal = raw(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
    content = b"x" * (32 << 20)
    with Scripted(refusal, bodies=False) as server, make(server, Waits()) as occi:
        with pytest.raises(client.TooLargeError):
            occi.put_bytes("/bundle/1", iter([content]) if pieces else content, "application/gzip")
        assert len(server.requests) == 1


def test_a_connection_that_the_server_closed_is_not_used() -> None:
    with Scripted(OK_ENTITY, answer("200 OK", close=True), OK_ENTITY) as server, make(server, Waits()) as occi:
        get(occi)
        occi.exists("/thing/1")
        get(occi)
        assert server.connections == 2
        assert len(server.requests) == 3


def test_connection_refused() -> None:
    waits = Waits()
    with (
        closed_port() as port,
        client.Client(f"http://127.0.0.1:{port}", clock=waits.clock, sleep=waits.sleep) as occi,
        pytest.raises(client.TransportError, match="refused") as caught,
    ):
        get(occi)
    assert caught.value.attempts == 4


def test_certificates_are_verified(tmp_path: Path) -> None:
    context, certificate = server_context(tmp_path)
    with Scripted(OK_ENTITY, OK_ENTITY, OK_ENTITY) as server:
        server.secure_with(context)
        port = server.url.rpartition(":")[2]
        once = client.Retry(attempts=1)
        with (
            client.Client(f"https://localhost:{port}", retry=once) as occi,
            pytest.raises(client.TransportError, match="certificate"),
        ):
            get(occi)
        assert server.requests == []
        with client.Client(f"https://localhost:{port}", retry=once, ca_file=str(certificate)) as occi:
            get(occi)
            get(occi)
        with (
            client.Client(f"https://127.0.0.1:{port}", retry=once, ca_file=str(certificate)) as occi,
            pytest.raises(client.TransportError, match="certificate"),
        ):
            get(occi)
        assert len(server.requests) == 2
        with client.Client(f"https://127.0.0.1:{port}", retry=once, verify=False) as occi:
            get(occi)
