"""The guarded fetcher against a real local server, with spoofed resolvers and misbehaving servers."""

from __future__ import annotations

import gzip
import http.server
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_core import addresses
from archelon_core.http import fetch
from tests.ports import closed_port

LOCAL = ["127.0.0.0/8"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Host", "")))
        name = self.path.partition("?")[0].strip("/").replace("-", "_")
        self.close_connection = True
        getattr(self, f"answer_{name}")()

    def send(self, content: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer_hello(self) -> None:
        self.send(b"hello", Content_Type="Text/Plain; charset=utf-8")

    def answer_missing(self) -> None:
        self.send(b"no", status=404)

    def answer_redirect(self) -> None:
        self.send(b"", status=302, Location=self.server.location)

    def answer_zipped(self) -> None:
        self.send(gzip.compress(b"hello"), Content_Encoding="gzip")

    def answer_bomb(self) -> None:
        self.send(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")

    def answer_bad_gzip(self) -> None:
        self.send(b"no gzip at all", Content_Encoding="gzip")

    def answer_large(self) -> None:
        self.send(bytes(200_000))

    def answer_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.flood(b"x" * 10_000)

    def answer_drip_body(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.drip()

    def answer_drip_header(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        self.drip()

    def answer_drip_gzip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        # The name field of a gzip header has no limit, and gives no output.
        self.wfile.write(b"\x1f\x8b\x08\x08\0\0\0\0\0\x03")
        self.drip()

    def drip(self) -> None:
        self.flood(b"x", pause=0.05)

    def flood(self, piece: bytes, *, pause: float = 0.0) -> None:
        until = time.monotonic() + 120
        try:
            while time.monotonic() < until and not self.server.stopping.wait(pause):
                self.wfile.write(piece)
                self.server.sent += len(piece)
        except OSError:
            self.server.hung_up.set()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str]] = []
        self.location = ""
        self.sent = 0
        self.stopping = threading.Event()
        self.hung_up = threading.Event()

    def url(self, path: str, *, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}/{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.stopping.set()
    served.shutdown()
    thread.join()
    served.server_close()


def fetcher(
    *, resolve: addresses.Resolve = addresses.resolve_with_system, allowed: Sequence[str] = LOCAL, **limits: float
) -> fetch.Fetcher:
    return fetch.Fetcher(
        schemes=("http", "https"),
        allowed_networks=allowed,
        limits=fetch.FetchLimits(
            size=int(limits.get("size", 100_000)),
            seconds=limits.get("seconds", 10.0),
            redirects=int(limits.get("redirects", 3)),
        ),
        resolve=resolve,
    )


def test_content_and_its_type(server: Server) -> None:
    got = fetcher().fetch(server.url("hello?key=1"), content_types=("text/plain",))
    assert got == fetch.Fetched(content=b"hello", content_type="text/plain", url=server.url("hello?key=1"))
    assert server.seen == [("/hello?key=1", f"127.0.0.1:{server.server_port}")]
    assert fetcher().fetch(server.url("zipped")).content == b"hello"


def test_another_type_or_status_is_refused(server: Server) -> None:
    with pytest.raises(fetch.FetchError, match="'text/plain'; expected one of application/json"):
        fetcher().fetch(server.url("hello"), content_types=("application/json",))
    with pytest.raises(fetch.FetchError, match="returned 404; check the URL"):
        fetcher().fetch(server.url("missing"))
    with pytest.raises(fetch.FetchError, match="broke off"):
        fetcher().fetch(server.url("bad-gzip"))


FORBIDDEN = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "169.254.169.254",
    "168.63.129.16", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "[::1]", "[::]",
    "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "[fec0::1]", "[2001:db8::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", FORBIDDEN)
def test_private_addresses_are_refused(host: str) -> None:
    with pytest.raises(fetch.FetchForbiddenError, match="not a public address"):
        fetcher(allowed=()).fetch(f"http://{host}:1/")
    # The same by name.
    with pytest.raises(fetch.FetchForbiddenError, match="not a public address"):
        fetcher(allowed=(), resolve=lambda name, port: ["8.8.8.8", host.strip("[]")]).fetch("http://name.example/")


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "017700000001", "127.0.0.1."]
)
def test_addresses_written_as_numbers(host: str) -> None:
    with pytest.raises(fetch.FetchForbiddenError, match="writes an address as a number"):
        fetcher().fetch(f"http://{host}/")


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_no_connection_is_made_to_a_private_address(address: addresses.Address) -> None:
    class ConnectedError(Exception):
        pass

    def connect(*_: object, **__: object) -> fetch.Fetched:
        raise ConnectedError

    checked = fetcher(allowed=(), resolve=lambda host, port: [str(address)])
    checked._get = connect  # type: ignore[method-assign]
    with pytest.raises((fetch.FetchForbiddenError, ConnectedError)) as caught:
        checked.fetch("http://name.example/")
    if not address.is_global or address.is_multicast:
        assert caught.type is fetch.FetchForbiddenError


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/", "gopher://example.org/", "file:///etc/passwd", "http:", "//example.org/", "", "example.org",
     "http://", "http://ex ample.org/", "http://example.org/\r\nX: y", "http://example.org\\@127.0.0.1/", "http://[::1/",
     "http://a:99999/", "http://user:hunter2@example.org/", "http://-a/", "http://a..b/"],
)  # fmt: skip
def test_urls_that_are_refused_before_any_connection(url: str) -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise AssertionError(f"asked for {host}")

    with pytest.raises(fetch.FetchError) as caught:
        fetcher(resolve=resolve).fetch(url)
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_gives_a_fetch_error(text: str) -> None:
    for url in (text, f"http:{text}", f"http://{text}", f"file:{text}"):
        with pytest.raises(fetch.FetchError):
            fetch.Fetcher(schemes=("http",), resolve=lambda host, port: ["127.0.0.1"]).fetch(url)


@pytest.mark.parametrize(
    "url",
    ["http://u:hunter2@h/p", "http://u:hun/ter2@h/p", "http://u:hunter2?@h", "http:u:hunter2@h", "//u:hunter2@h", "u:hunter2@h",
     "http://h/p?token=hunter2", "http://h/p#hunter2"],
)  # fmt: skip
def test_no_shown_url_carries_credentials(url: str) -> None:
    assert "hun" not in fetch.shown_url(url)
    assert fetch.shown_url("https://example.org:8443/@user/x") == "https://example.org:8443/@user/x"


def test_the_connection_goes_to_the_address_that_was_checked(server: Server) -> None:
    """DNS rebinding: the second answer leads elsewhere, but is never requested."""
    answers = iter([["127.0.0.1"], ["10.66.66.66"]])
    asked: list[str] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return next(answers)

    got = fetcher(resolve=resolve).fetch(server.url("hello", host="rebind.example"))
    assert got.content == b"hello"
    assert asked == ["rebind.example"]
    assert server.seen == [("/hello", f"rebind.example:{server.server_port}")]


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest/meta-data", "//[::1]/", "http://0x7f000001/"])
def test_a_redirect_to_a_forbidden_address(server: Server, location: str) -> None:
    server.location = location
    with pytest.raises(fetch.FetchForbiddenError):
        fetcher().fetch(server.url("redirect"))
    assert len(server.seen) == 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "FILE:secret", "ftp://example.org/x"])
def test_a_redirect_to_another_scheme(server: Server, location: str) -> None:
    server.location = location
    with pytest.raises(fetch.FetchForbiddenError, match="has the scheme"):
        fetcher().fetch(server.url("redirect"))


def test_redirects_are_followed_and_counted(server: Server) -> None:
    server.location = "/hello"
    assert fetcher().fetch(server.url("redirect")).url == server.url("hello")
    server.location = "/redirect"
    with pytest.raises(fetch.FetchError, match="after 3 redirects and redirects again"):
        fetcher().fetch(server.url("redirect"))
    assert len(server.seen) == 2 + 4


@pytest.mark.parametrize("path", ["large", "endless", "bomb"])
def test_large_content_is_refused(server: Server, path: str) -> None:
    with pytest.raises(fetch.FetchTooLargeError, match="larger than 100000 bytes"):
        fetcher().fetch(server.url(path))
    if path == "endless":
        assert server.hung_up.wait(60)
        assert server.sent < 10_000_000


@pytest.mark.parametrize("path", ["drip-body", "drip-header", "drip-gzip"])
def test_a_dripping_server_is_disconnected_in_time(server: Server, path: str) -> None:
    with pytest.raises(fetch.FetchTimeoutError, match="longer than 1 s"):
        # Enough time for the server to begin.
        fetcher(seconds=1).fetch(server.url(path))
    # Disconnected long before the server would stop by itself.
    assert server.hung_up.wait(60)


def silent(listener: socket.socket) -> Callable[[], None]:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(60)
            while connection.recv(1000):
                pass

    return serve


def test_a_tls_handshake_that_never_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=silent(listener))
        thread.start()
        with pytest.raises(fetch.FetchTimeoutError):
            fetcher(seconds=1).fetch(f"https://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join(60)
        assert not thread.is_alive()


def test_a_resolver_that_never_answers() -> None:
    release = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        release.wait(60)
        return []

    with pytest.raises(fetch.FetchTimeoutError):
        fetcher(resolve=resolve, seconds=0.2).fetch("http://slow.example/")
    release.set()


def test_connection_refused() -> None:
    with closed_port() as port, pytest.raises(fetch.FetchError, match="check that it runs"):
        fetcher().fetch(f"http://127.0.0.1:{port}/")

    def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(fetch.FetchError, match=r"has no address \(Name or service not known\); check its name"):
        fetcher(resolve=resolve).fetch("http://no.example/")


def test_proxies_from_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetcher().fetch(server.url("hello")).content == b"hello"


def test_a_network_is_allowed_by_configuration_only() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")]
    for inside in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert addresses.may_connect(ipaddress.ip_address(inside), allowed)
    assert not addresses.may_connect(ipaddress.ip_address("10.2.0.1"), allowed)
