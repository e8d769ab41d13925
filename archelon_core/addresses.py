"""The addresses that a fetch may reach.

Public addresses are those that IANA's registries call global, except ranges that lead back inside through a translator (NAT64,
6to4, Teredo) and one cloud's public-looking metadata address.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: Returns the addresses of a host name, for a port. Raises OSError if there are none.
Resolve = Callable[[str, int], Sequence[str]]

_URL = re.compile(
    r"https?://(?:[A-Za-z0-9.\-_]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9\-._~]+)*/?", re.ASCII
)

#: Ranges that `ipaddress` calls global, but that lead inside or to a translator.
_ALSO_DENIED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "192.88.99.0/24", "168.63.129.16/32")
)


def public_url(url: str) -> str:
    """Return a service's URL without a trailing slash. Raises ValueError if it has more than http(s), host, port and path."""
    if _URL.fullmatch(url) is None:
        raise ValueError("expected http or https, a host, and perhaps a port and a path: https://example.org/archelon")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def may_connect(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether connections to this address are permitted: it is public, or in a network that the operator allowed.

    An IPv4 address mapped into IPv6 counts as the IPv4 address.
    """
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if inner is not None:
        address = inner
    if any(address.version == network.version and address in network for network in allowed):
        return True
    if address.is_multicast or address.is_unspecified or address.is_reserved or not address.is_global:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    return not any(address.version == network.version and address in network for network in _ALSO_DENIED)


def resolve_with_system(host: str, port: int) -> Sequence[str]:
    """The addresses that this machine's resolver returns, in its order of preference."""
    results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(result[4][0]) for result in results]


def resolve_within(seconds: float, call: Callable[[], Sequence[str]]) -> Sequence[str]:
    """The call's result or exception, or TimeoutError. The system's resolver has no timeout, so a thread waits for it."""
    outcome: list[Sequence[str]] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failure.append(error)

    thread = threading.Thread(target=run, name="resolve", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError
    return outcome[0]
