"""The guarded way to fetch untrusted URLs, or from untrusted servers.

A fetch cannot be turned against the machine that runs it: scheme and address are checked, the name is resolved once and the
connection goes to the very address that was checked (so a later change of DNS has no effect), redirects are followed here and
checked like the first URL, size is limited before and after decompression, and time as a whole.

Proxies from the environment are not used: a proxy would resolve the name again, after the check. Cookies, credentials from
`.netrc` and the caller's own headers are never sent; credentials in the URL are refused.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence

import urllib3.connection
import urllib3.exceptions

from .. import addresses
from .cuttable_connections import PlainConnection, TLSConnection

_CHUNK = 16 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADERS = {"User-Agent": "archelon", "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
# Some resolvers read such a host as a number: 2130706433, 0x7f.1, 0177.0.0.1, 127.1.
_NUMERIC_HOST = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*\.?", re.IGNORECASE)
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.?"
)


class FetchError(Exception):
    """A URL could not be fetched. The text names the URL, without credentials and query, and the remedy."""


class FetchForbiddenError(FetchError):
    """This URL may not be fetched, because of its scheme or address."""


class FetchTooLargeError(FetchError):
    """The content is larger than the limit, as sent or decompressed."""


class FetchTimeoutError(FetchError):
    """The whole fetch took longer than the limit."""


@dataclasses.dataclass(frozen=True)
class FetchLimits:
    """Limits on a fetch.

    Attributes:
        size: bytes of content, both as sent and decompressed.
        seconds: for the whole fetch, including name resolution and redirects.
        redirects: maximum number to follow.
    """

    size: int = 4 * 1024 * 1024
    seconds: float = 15.0
    redirects: int = 3


@dataclasses.dataclass(frozen=True)
class Fetched:
    """The content, its media type in lower case without parameters (empty if unknown), and the last URL."""

    content: bytes
    content_type: str
    url: str


@dataclasses.dataclass(frozen=True)
class _Target:
    """A checked URL: where to connect, and what to request there."""

    url: str
    scheme: str
    host: str
    port: int
    path: str
    addresses: tuple[addresses.Address, ...]


class Fetcher:
    """Fetches untrusted URLs. Threads may share one; it keeps no connection open.

    Args:
        schemes: allowed schemes, of `https` and `http`.
        allowed_networks: networks allowed although private, loopback or link-local, for example `10.1.0.0/16`.
        limits: size, time and redirects.
        resolve: returns a host's addresses.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        schemes: Sequence[str] = ("https",),
        allowed_networks: Sequence[str] = (),
        limits: FetchLimits | None = None,
        resolve: addresses.Resolve = addresses.resolve_with_system,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schemes = tuple(schemes)
        self._networks: tuple[addresses.Network, ...] = tuple(ipaddress.ip_network(text) for text in allowed_networks)
        self._limits = limits if limits is not None else FetchLimits()
        self._resolve = resolve
        self._clock = clock

    def fetch(self, url: str, *, content_types: Sequence[str] | None = None) -> Fetched:
        """Fetch a URL.

        Args:
            url: an absolute URL.
            content_types: media types to accept, for example `application/json`; None accepts all.

        Raises:
            FetchForbiddenError: the scheme or an address is not allowed, initially or after a redirect.
            FetchTooLargeError: the content exceeds the limit.
            FetchTimeoutError: the whole fetch took too long.
            FetchError: any other failure: no such host, no connection, a status other than 200, another content type.
        """
        deadline = self._clock() + self._limits.seconds
        for _ in range(self._limits.redirects + 1):
            target = self._check(url, deadline)
            result = self._get(target, deadline, content_types)
            if isinstance(result, Fetched):
                return result
            url = result
        raise FetchError(
            f"{shown_url(url)} was reached after {self._limits.redirects} redirects and redirects again; "
            "give the URL that they lead to"
        )

    def _check(self, url: str, deadline: float) -> _Target:
        shown = shown_url(url)
        if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url) or "\\" in url:
            raise FetchForbiddenError(
                f"{shown} contains a space, a control character or a backslash; percent-encode it"
            )
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise FetchError(f"{shown} is not a URL: {error}") from None
        scheme = parts.scheme.lower()
        if scheme not in self._schemes or scheme not in _DEFAULT_PORTS:
            allowed = ", ".join(self._schemes)
            raise FetchForbiddenError(f"{shown} has the scheme {scheme or 'none'!r}; expected one of {allowed}")
        if "@" in parts.netloc:
            raise FetchForbiddenError(f"{shown} contains credentials, which would end up in logs; remove them")
        host = _checked_host(parts.hostname or "", shown)
        port = _DEFAULT_PORTS[scheme] if port is None else port
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            path += "?" + urllib.parse.quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
        found = self._addresses(host, port, deadline, url)
        return _Target(url=url, scheme=scheme, host=host, port=port, path=path, addresses=found)

    def _addresses(self, host: str, port: int, deadline: float, url: str) -> tuple[addresses.Address, ...]:
        shown = shown_url(url)
        try:
            texts = addresses.resolve_within(self._remaining(deadline, url), lambda: self._resolve(host, port))
            found = tuple(ipaddress.ip_address(text.partition("%")[0]) for text in texts)
        except TimeoutError:
            raise FetchTimeoutError(self._too_slow(shown)) from None
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise FetchError(f"{shown}: the host {host} has no address ({reason}); check its name") from error
        # Any denied address forbids the fetch: the choice among several must not decide what is reached.
        for address in found:
            if not addresses.may_connect(address, self._networks):
                raise FetchForbiddenError(
                    f"{shown} leads to {address}, which is not a public address; "
                    "use a public host, or let the operator allow its network"
                )
        if not found:
            raise FetchError(f"{shown}: the host {host} has no address; check its name")
        return tuple(dict.fromkeys(found))

    def _get(self, target: _Target, deadline: float, content_types: Sequence[str] | None) -> Fetched | str:
        shown = shown_url(target.url)
        failure: Exception | None = None
        for address in target.addresses:
            remaining = self._remaining(deadline, target.url)
            connection = self._connection(target, address, remaining)
            alarm = threading.Timer(remaining, connection.cut)
            alarm.daemon = True
            alarm.start()
            try:
                connection.request(
                    "GET",
                    target.path,
                    headers={**_HEADERS, "Host": _host_header(target)},
                    preload_content=False,
                    decode_content=True,
                )
                return self._read(connection, target, deadline, content_types)
            except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
                failure = error
            except (urllib3.exceptions.TimeoutError, TimeoutError) as error:
                raise FetchTimeoutError(self._too_slow(shown)) from error
            except urllib3.exceptions.SSLError as error:
                raise FetchError(f"{shown}: the server's certificate is not accepted: {error}") from error
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                self._remaining(deadline, target.url)
                raise FetchError(
                    f"{shown}: the response broke off ({type(error).__name__}); try again later"
                ) from error
            finally:
                alarm.cancel()
                connection.close()
                connection.release()
        # To urllib3, a refused connection is a kind of timeout.
        if not isinstance(failure, urllib3.exceptions.NewConnectionError):
            raise FetchTimeoutError(self._too_slow(shown)) from failure
        raise FetchError(f"{shown}: no connection to {target.host}:{target.port}; check that it runs") from failure

    def _connection(
        self, target: _Target, address: addresses.Address, timeout: float
    ) -> PlainConnection | TLSConnection:
        if target.scheme == "http":
            return PlainConnection(str(address), target.port, timeout=timeout)
        # Connect to the checked address; the certificate must still be the host's.
        return TLSConnection(
            str(address),
            target.port,
            timeout=timeout,
            server_hostname=target.host.rstrip("."),
            assert_hostname=target.host.rstrip("."),
            cert_reqs="CERT_REQUIRED",
        )

    def _read(
        self,
        connection: urllib3.connection.HTTPConnection,
        target: _Target,
        deadline: float,
        content_types: Sequence[str] | None,
    ) -> Fetched | str:
        shown = shown_url(target.url)
        response = connection.getresponse()
        if response.status in _REDIRECTS:
            location = response.headers.get("Location")
            if not location:
                raise FetchError(f"{shown} redirects without a location; correct the server, or use another URL")
            return urllib.parse.urljoin(target.url, location)
        if response.status != 200:
            raise FetchError(f"{shown} returned {response.status}; check the URL")
        content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_types is not None and content_type not in content_types:
            wanted = ", ".join(content_types)
            raise FetchError(f"{shown} is {content_type or 'of no content type'!r}; expected one of {wanted}")
        declared = response.headers.get("Content-Length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > self._limits.size:
            raise FetchTooLargeError(self._too_large(shown))
        content = bytearray()
        while True:
            remaining = self._remaining(deadline, target.url)
            if connection.sock is not None:
                connection.sock.settimeout(remaining)
            # read1 returns what has arrived: read would wait for a whole chunk, byte by byte, past the deadline.
            chunk = response.read1(_CHUNK, decode_content=True)
            if not chunk:
                break
            content += chunk
            if len(content) > self._limits.size:
                raise FetchTooLargeError(self._too_large(shown))
        self._remaining(deadline, target.url)
        return Fetched(content=bytes(content), content_type=content_type, url=target.url)

    def _remaining(self, deadline: float, url: str) -> float:
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise FetchTimeoutError(self._too_slow(shown_url(url)))
        return remaining

    def _too_slow(self, shown: str) -> str:
        return f"{shown} took longer than {self._limits.seconds:g} s; use a faster server, or a smaller document"

    def _too_large(self, shown: str) -> str:
        return f"{shown} is larger than {self._limits.size} bytes; make it smaller"


def shown_url(url: str) -> str:
    """The URL for an error text or a log: no credentials, no query, nothing unprintable, not too long."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
        place = parts.netloc.rpartition("@")[2]
        head = f"{parts.scheme}:" if parts.scheme else ""
        head += (f"//{place}" if place else "") + parts.path
        malformed = not place and "@" in parts.path
    except ValueError:
        malformed = True
    if malformed:
        # It is unknown where the host ends, and so where a password does.
        return "the malformed URL " + "".join(filter(str.isalnum, url[:64].partition(":")[0])) + ":…"
    shown = "".join(character if character.isprintable() else "\ufffd" for character in head[:200])
    return shown + ("…" if len(head) > 200 else "")


def _checked_host(host: str, shown: str) -> str:
    """The host in an unambiguous form: a dotted or IPv6 address, or a name."""
    if not host:
        raise FetchError(f"{shown} has no host; write scheme://host/path")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        name = host.encode("idna").decode("ascii").lower() if not host.isascii() else host.lower()
    except UnicodeError:
        raise FetchError(f"{shown}: {host!r} is not a host name") from None
    if _NUMERIC_HOST.fullmatch(name):
        raise FetchForbiddenError(
            f"{shown} writes an address as a number; write it as four decimal parts, or use a name"
        )
    if not _HOST_NAME.fullmatch(name):
        raise FetchError(f"{shown}: {host!r} is not a host name")
    return name


def _host_header(target: _Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == _DEFAULT_PORTS[target.scheme] else f"{host}:{target.port}"
