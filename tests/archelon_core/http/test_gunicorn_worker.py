"""Our server's handling of connections, over raw sockets: framing, limits, eviction, shutdown."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gunicorn.config
import gunicorn.http.errors
import psutil
import pytest

from archelon_core.auth.size_limit import HEAD_SIZE
from archelon_core.http.connection import Connection, ConnectionLimits
from archelon_core.http.gunicorn_worker import _Calls, _Response, _Threads, source_of
from tests.waiting import until

from .http_process import Served, answers, ended, serving

GET = b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running


def echoed(body: bytes) -> dict[str, object]:
    return dict(json.loads(body))


def post(*fields: bytes, version: bytes = b"1.1", path: bytes = b"/echo") -> bytes:
    return b"\r\n".join([b"POST " + path + b" HTTP/" + version, b"Host: a", *fields, b"", b""])


CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b'4;name="v"\r\nWiki\r\n05\r\npedia\r\n0\r\nX-Trailer: a\r\n\r\n'


# framing ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(b"Content-Length: 5", CHUNKED) + b"0\r\n\r\n", 400),
        (post(CHUNKED, b"Content-Length: 5") + b"0\r\n\r\n", 400),
        (post(b"Content-Length: 5", b"Content-Length: 5") + b"12345", 400),
        (post(b"Content-Length: 5", b"Content-Length: 6") + b"12345", 400),
        (post(b"Content-Length: 5, 5") + b"12345", 400),
        (post(b"Content-Length: +5") + b"12345", 400),
        (post(b"Content-Length: 0x5") + b"12345", 400),
        (post(b"Content-Length: -1"), 400),
        (post(b"Content-Length : 5") + b"12345", 400),
        (post(CHUNKED, version=b"1.0") + b"0\r\n\r\n", 400),
        (post(CHUNKED, CHUNKED) + b"0\r\n\r\n", 400),
        (post(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n", 400),
        (post(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n", 501),
        (post(b"X-A: 1\r\n folded: 2", b"Content-Length: 0"), 400),
        (post(b"X-A: a\x00b"), 400),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
    ],
)
def test_ambiguous_requests_are_refused_with_everything_behind_them(
    served: Served, request_bytes: bytes, status: int
) -> None:
    assert [found for found, _ in answers(served.ask(request_bytes + GET + CLOSE))] == [status]


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloworld\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"\r\n\r\n",
        b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        b"5;" + b"x" * 400_000,
    ],
)
@pytest.mark.parametrize("path", [b"/echo", b"/unread"])
def test_nothing_behind_invalid_chunks_is_taken_for_a_request(served: Served, body: bytes, path: bytes) -> None:
    found = answers(served.ask(post(CHUNKED, path=path) + body + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n" + CLOSE))
    assert len(found) <= 1
    assert not any(b"smuggled" in body for _, body in found)


def test_an_unread_chunked_body_is_not_taken_for_the_next_request(served: Served) -> None:
    found = answers(
        served.ask(post(CHUNKED, path=b"/unread") + b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n" + CLOSE)
    )
    assert found == [(200, b"not read")]


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_pipelined_requests_are_answered_in_order(served: Served, size: int) -> None:
    stream = (
        b"\r\n"
        + post(b"Content-Length: 5")
        + b"hello"
        + post(CHUNKED)
        + CHUNKS
        + GET
        + post(b"Content-Length: 5", path=b"/unread")
        + b"hello"
        + post(CHUNKED, path=b"/unread")
        + CHUNKS
        + CLOSE
    )
    with served.connected() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(stream), size):
            connection.sendall(stream[start : start + size])
        found = answers(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert [status for status, _ in found] == [200] * 6
    first, second, third = (echoed(body) for _, body in found[:3])
    assert first["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert second["sha256"] == hashlib.sha256(b"Wikipedia").hexdigest()
    assert (third["length"], third["PATH_INFO"]) == (0, "/plain")
    assert [body for _, body in found[3:5]] == [b"not read"] * 2
    assert echoed(found[5][1])["PATH_INFO"] == "/last"


def test_a_response_of_unknown_length_is_chunked_and_keeps_the_connection(served: Served) -> None:
    head, _, rest = served.ask(b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n" + CLOSE).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert rest.startswith(b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(("field", "left_open"), [(b"", False), (b"Connection: keep-alive\r\n", True)])
def test_http_1_0(served: Served, field: bytes, left_open: bool) -> None:
    request = b"GET /plain HTTP/1.0\r\n" + field + b"\r\n"
    assert len(answers(served.ask(request + CLOSE))) == (2 if left_open else 1)


def test_an_interrupted_response_closes_the_connection(served: Served) -> None:
    assert served.ask(b"GET /breaks HTTP/1.1\r\nHost: a\r\n\r\n" + CLOSE).endswith(b"\r\n\r\nx")


def test_an_unread_interrupted_response_affects_no_other_connection(served: Served) -> None:
    with served.connected(receives=4096) as connection:
        connection.sendall(b"GET /breaks?9000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.recv(1)
        assert answers(served.ask(CLOSE))[0][0] == 200
        received = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        assert received.endswith(b"\r\n\r\n" + b"x" * 9_000_000)
        assert answers(served.ask(CLOSE))[0][0] == 200


def test_continue_is_sent_once_before_the_body(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(post(b"Content-Length: 5", b"Expect: 100-continue", b"Connection: close"))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        found = answers(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert [status for status, _ in found] == [200]


@pytest.mark.parametrize("expect", [(), (b"Expect: 100-continue",)])
def test_a_body_declared_too_large_is_refused_and_not_received(served: Served, expect: tuple[bytes, ...]) -> None:
    found = answers(served.ask(post(b"Content-Length: 1048577", *expect)))
    assert [status for status, _ in found] == [413]


def test_a_chunked_body_that_grows_too_large_is_refused(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(post(CHUNKED) + b"100000\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(64):
                connection.sendall(b"x" * 0x100000 + b"\r\n100000\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_proxy_fields_are_trusted_from_proxies_only(served: Served) -> None:
    fields = (b"X-Forwarded-Proto: https", b"SCRIPT_NAME: /a", b"Connection: close")
    [(_, body)] = answers(served.ask(post(*fields, path=b"/a/b")))
    assert echoed(body)["wsgi.url_scheme"] == "http"
    assert (echoed(body)["SCRIPT_NAME"], echoed(body)["PATH_INFO"]) == ("", "/a/b")


# HEAD ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"HEAD /plain HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"HEAD /pieces HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"HEAD /big?70000 HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"HEAD /raises HTTP/1.1\r\nHost: a\r\n\r\n", 500),
        (b"HEAD /plain HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"HEAD /plain HTTP/1.1\r\nHost: a\r\nbad field\r\n\r\n", 400),
        (b"HEAD /plain HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        (b"HEAD /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nX-Big: " + b"x" * 17_000 + b"\r\n\r\n", 431),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nX-Big: " + b"x" * 140_000, 431),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", 417),
    ],
)
def test_head_responses_have_no_body(served: Served, request_bytes: bytes, status: int) -> None:
    stream = served.ask(request_bytes + CLOSE)
    head, _, rest = stream.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == status
    # What follows is nothing, or the response to the next request.
    assert not rest or (status == 200 and rest.startswith(b"HTTP/1.1 200 OK\r\n") and len(answers(rest)) == 1)


# time ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("hasty"), seconds=1.0, rate=1024) as running:
        yield running


@pytest.mark.parametrize(
    "begun", [b"G", b"HEAD / HT", GET[:-2], post(b"Content-Length: 9") + b"{", post(CHUNKED) + b"5\r\n"]
)
def test_an_incomplete_request_is_answered_with_408(hasty: Served, begun: bytes) -> None:
    head, _, body = hasty.ask(begun).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\nServer: Test/1 OCCI/1.2\r\n")
    assert bool(body) != begun.startswith(b"HEAD")


def test_an_idle_client_is_disconnected(hasty: Served) -> None:
    assert hasty.ask(b"") == b""


@pytest.mark.parametrize("begun", [b"GET /plain HTTP/1.1\r\nX-A: ", post(b"Content-Length: 900000")])
def test_single_bytes_do_not_extend_the_deadline(hasty: Served, begun: bytes) -> None:
    with hasty.connected() as connection:
        connection.sendall(begun)

        def over() -> bool:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"x")
            return ended(connection)

        until(over, "it is hung up on")


def test_received_bytes_extend_the_deadline_of_a_body(hasty: Served) -> None:
    body = b"x" * 100_000
    with hasty.connected() as connection:
        connection.sendall(post(b"Content-Length: 100000", b"Connection: close") + body[:90_000])
        # A later client that sends nothing has timed out, so the time of the first is also past.
        hasty.ask(b"")
        hasty.ask(b"")
        connection.sendall(body[90_000:])
        [(status, answer)] = answers(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert (status, echoed(answer)["length"]) == (200, 100_000)


def test_a_client_that_does_not_read_is_disconnected(hasty: Served) -> None:
    with hasty.connected(receives=4096) as connection:
        connection.sendall(b"GET /big?9000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.recv(1)
        worker = hasty.worker()
        theirs = connection.getsockname()
        until(lambda: all(each.raddr != theirs for each in worker.net_connections()), "it is hung up on")


# threads ------------------------------------------------------------------------------------------------------------------


def test_unread_responses_occupy_no_thread_and_are_complete(served: Served) -> None:
    """More of them than threads, and two responses each."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(served.connected(receives=4096)) for _ in range(6)]
        for each in slow:
            each.sendall(b"GET /big?9000000 HTTP/1.1\r\nHost: a\r\n\r\n" + CLOSE)
            assert each.recv(4)
        for _ in range(10):
            assert answers(served.ask(CLOSE))[0][0] == 200
        for each in slow:
            stream = b"HTTP" + b"".join(iter(lambda each=each: each.recv(1 << 20), b""))
            (first, body), (second, _) = answers(stream)
            assert (first, second) == (200, 200)
            assert body == b"y" * 9_000_000


def test_a_client_that_does_not_close_blocks_no_other(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(served.connected()) for _ in range(20)]
        for each in kept:
            each.sendall(CLOSE)
        for each in kept:
            assert answers(b"".join(iter(lambda each=each: each.recv(65536), b"")))[0][0] == 200
        worker = served.worker()
        ours = {each.getsockname() for each in kept}
        until(lambda: not ours & {each.raddr for each in worker.net_connections()}, "the server has closed them")


class Endless:
    """The socket of a client that sends these bytes, and then others, faster than they are received."""

    def __init__(self, begun: bytes) -> None:
        self._next = begun
        self.times = 0

    def recv(self, size: int) -> bytes:
        self.times += 1
        data, self._next = self._next, b"x" * size
        return data

    def setblocking(self, _flag: bool) -> None: ...

    def shutdown(self, _how: int) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("begun", [CLOSE, post(b"Content-Length: 99999999"), post(CHUNKED) + b"fffffff\r\n"])
def test_an_endless_sender_does_not_starve_others(begun: bytes) -> None:
    endless = Endless(begun)
    limits = ConnectionLimits(body=100_000_000)
    connection = Connection(gunicorn.config.Config(), endless, ("127.0.0.1", 1), None, limits=limits, source=None)
    for round_ in range(100):
        next(connection.steps)
        assert endless.times <= round_ + 1
    connection.steps.close()
    connection.close()


def test_a_large_body_is_in_a_file_until_it_is_complete(tmp_path: Path) -> None:
    size = 96 << 20
    with serving(tmp_path, body=size, stored=size) as running, running.connected() as connection:
        worker = running.worker()
        running.ask(CLOSE)
        before = worker.memory_info().rss
        piece = b"x" * (1 << 20)
        digest = hashlib.sha256(piece * (size >> 20)).hexdigest()
        connection.sendall(post(b"Content-Length: %d" % size, b"Connection: close"))
        for _ in range((size >> 20) - 1):
            connection.sendall(piece)
        connection.sendall(piece[1:])
        written = Path(f"/proc/{worker.pid}/fd")
        until(lambda: any(_size(each) >= size - 65536 for each in written.iterdir()), "it is all here")
        assert worker.memory_info().rss - before < 16 << 20
        connection.sendall(b"x")
        [(status, body)] = answers(b"".join(iter(lambda: connection.recv(65536), b"")))
        assert (status, echoed(body)["sha256"]) == (200, digest)


@pytest.mark.parametrize("length", [200_000, 1 << 20])
def test_a_body_that_no_file_can_keep_is_answered_with_503(tmp_path: Path, length: int) -> None:
    with serving(tmp_path, body=2 << 20) as running:
        # A file that cannot grow, as on a full disk.
        running.worker().rlimit(psutil.RLIMIT_FSIZE, (100_000, 100_000))
        asked = post(b"Content-Length: %d" % length) + b"x" * length
        [(status, body)] = answers(running.ask(asked))
        assert status == 503
        assert b"the disk may be full" in body
        # The connection was closed, the server goes on.
        [(status, _)] = answers(running.ask(CLOSE))
        assert status == 200


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# eviction -----------------------------------------------------------------------------------------------------------------


def test_the_longest_waiting_connection_of_an_address_above_its_limit_is_closed(tmp_path: Path) -> None:
    with (
        serving(tmp_path, per_address=8, options={"trusted_proxies": ["127.0.0.3"]}) as running,
        contextlib.ExitStack() as stack,
    ):

        def begun(source: str) -> socket.socket:
            made = stack.enter_context(running.connected(source=source))
            made.sendall(b"GET /plain HTTP/1.1\r\n")
            return made

        other = begun("127.0.0.2")
        through_proxy = [begun("127.0.0.3") for _ in range(20)]
        many = []
        for _ in range(20):
            many.append(begun("127.0.0.1"))
            # They do not keep a client with a complete request from being served.
            assert answers(running.ask(CLOSE))[0][0] == 200
        until(lambda: sum(ended(each) for each in many) >= 12, "those are gone that are too many")
        for each in (other, *through_proxy, many[-1]):
            assert not ended(each)
            each.sendall(b"Host: a\r\nConnection: close\r\n\r\n")
            assert each.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_above_the_limit_a_connection_of_the_busiest_address_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path, connections=16) as running, contextlib.ExitStack() as stack:
        few = [stack.enter_context(running.connected(source="127.0.0.2")) for _ in range(3)]
        many = [stack.enter_context(running.connected()) for _ in range(40)]
        assert answers(running.ask(CLOSE))[0][0] == 200
        until(lambda: sum(ended(each) for each in many) >= 26, "those are gone that are too many")
        for each in few:
            each.sendall(CLOSE)
            assert each.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("::ffff:192.0.2.1", 1, 0, 0), "192.0.2.1"),
        (("2001:db8:1:2:3::4", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (("10.1.2.3", 1), None),
        (("::ffff:10.1.2.3", 1, 0, 0), None),
        (("2001:db8:ffff::1", 1, 0, 0), None),
        ("", None),
        (b"", None),
    ],
)
def test_the_source_of_a_connection(address: object, source: str | None) -> None:
    trusted = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:ffff::/48")]
    assert source_of(address, trusted) == source


def test_unix_sockets_have_no_address_limit(tmp_path: Path) -> None:
    place = tmp_path / "socket"
    bind = ["127.0.0.1:0", f"unix:{place}"]
    with serving(tmp_path, per_address=2, options={"bind": bind}), contextlib.ExitStack() as stack:
        many = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(10)]
        for each in many:
            each.settimeout(60)
            each.connect(str(place))
            each.sendall(GET[:-2])
        for each in many:
            each.sendall(b"Connection: close\r\n\r\n")
            assert each.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_above_the_storage_limit_the_largest_body_is_dropped(tmp_path: Path) -> None:
    with serving(tmp_path, stored=1 << 20) as running, contextlib.ExitStack() as stack:
        large, *small = (stack.enter_context(running.connected()) for _ in range(4))
        large.sendall(post(b"Content-Length: 1000000") + b"x" * 900_000)
        for each in small:
            each.sendall(post(b"Content-Length: 100000", b"Connection: close") + b"x" * 99_999)
        until(lambda: ended(large), "it is hung up on")
        for each in small:
            each.sendall(b"x")
            assert each.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_the_address_that_stores_most_is_dropped_first(tmp_path: Path) -> None:
    with serving(tmp_path, body=2 << 20, stored=1 << 20) as running, contextlib.ExitStack() as stack:
        many = [stack.enter_context(running.connected()) for _ in range(6)]
        for each in many:
            each.sendall(post(b"Content-Length: 150000") + b"x" * 149_999)
        large = stack.enter_context(running.connected(source="127.0.0.2"))
        large.sendall(post(b"Content-Length: 500000", b"Connection: close") + b"x" * 500_000)
        assert large.recv(65536).startswith(b"HTTP/1.1 200 ")
        until(lambda: any(ended(each) for each in many), "one of many is hung up on")


# shutdown -----------------------------------------------------------------------------------------------------------------


def test_on_shutdown_requests_finish_and_slow_heads_are_dropped(tmp_path: Path) -> None:
    with serving(tmp_path) as running, contextlib.ExitStack() as stack:
        idle, head, body, runs = (stack.enter_context(running.connected()) for _ in range(4))
        head.sendall(GET[:-2])
        body.sendall(post(b"Content-Length: 5") + b"hell")
        runs.sendall(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "running").exists, "the request runs")
        running.process.terminate()
        until(lambda: ended(idle) and ended(head), "those are gone that have not asked")
        body.sendall(b"o")
        assert b"Connection: close" in body.recv(65536)
        (tmp_path / "go").touch()
        [(status, result)] = answers(b"".join(iter(lambda: runs.recv(65536), b"")))
        assert (status, result) == (200, b"done")
        # Far sooner than the 300 s that running requests may take.
        assert running.process.wait(60) == 0


def test_a_worker_exits_when_its_arbiter_is_gone(tmp_path: Path) -> None:
    with serving(tmp_path, options={"workers": 2}) as running, running.connected() as connection:
        connection.sendall(GET[:-2])
        arbiter = psutil.Process(running.process.pid)
        workers = until(lambda: found if len(found := arbiter.children()) == 2 else None, "two workers are there")
        running.process.send_signal(signal.SIGKILL)
        assert psutil.wait_procs(workers, timeout=60)[1] == []


# threads ------------------------------------------------------------------------------------------------------------------


def _wakes(calls: _Calls) -> bool:
    return bool(select.select([calls], [], [], 0)[0])


def test_calls_wake_the_poller_once_and_none_is_lost() -> None:
    calls = _Calls()
    calls.init()
    made: list[int] = []
    calls.call(made.append, 1, at_once=False)
    assert not _wakes(calls)
    calls.call(made.append, 2, at_once=True)
    calls.call(made.append, 3, at_once=True)
    assert _wakes(calls)
    # What a call adds is for the next time.
    calls.defer(lambda: calls.defer(made.append, 4))
    calls.run_callbacks(None)
    assert made == [1, 2, 3]
    assert _wakes(calls)
    calls.run_callbacks(None)
    assert made == [1, 2, 3, 4]
    assert not _wakes(calls)
    for number in range(1000):
        calls.call(made.append, number, at_once=False)
    assert _wakes(calls)
    calls.close()


def test_threads_start_when_all_others_are_busy_and_survive_an_exception() -> None:
    entered: list[str] = []
    free = threading.Event()

    def serve(connection: Any) -> None:
        entered.append(threading.current_thread().name)
        if connection == "raises":
            raise SystemExit
        free.wait(90)

    threads = _Threads(2, serve)
    try:
        threads.submit("raises")  # type: ignore[arg-type]
        until(lambda: len(entered) == 1)
        threads.finished()
        assert not threads.overloaded()
        for _ in range(3):
            threads.submit("slow")  # type: ignore[arg-type]
        until(lambda: len(entered) == 3)
        assert len(set(entered)) == 2
        assert threads.overloaded()
        free.set()
        until(lambda: len(entered) == 4)
        assert not threads.overloaded()
    finally:
        free.set()
        threads.shutdown(wait=False)


def test_the_head_of_a_response_is_sent_with_its_body(served: Served) -> None:
    with served.connected() as connection:
        connection.sendall(GET)
        first = connection.recv(65536)
    [(status, body)] = answers(first)
    assert status == 200
    assert body


def test_the_application_gets_the_size_of_the_head(served: Served) -> None:
    first = post(b"Content-Length: 5")
    given = [echoed(body)[HEAD_SIZE] for _, body in answers(served.ask(first + b"12345" + CLOSE))]
    assert given == [len(first), len(CLOSE)]


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\rb", "a\0", "a\x7f", "\u20ac", "\u2028"])
def test_no_value_of_a_response_field_ends_it(value: str) -> None:
    response = _Response(None, None, None)
    with pytest.raises(gunicorn.http.errors.InvalidResponseHeader):
        response.process_headers([("X-A", value)])


def test_the_fields_of_a_response() -> None:
    response = _Response(None, None, None)
    given = [("X-A", " a\tb "), ("x-b", "\xe4"), ("Server", "S/1"), ("Connection", "close"), ("content-length", "3")]
    response.process_headers(given)
    assert response.headers == [("X-A", "a\tb"), ("x-b", "\xe4"), ("content-length", "3")]
    assert (response.version, response.response_length) == ("S/1", 3)
