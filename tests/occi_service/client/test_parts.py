"""Unit tests of the client: imports, addresses, the catalogue, forks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from occi_service import client
from occi_service.client.address import Address
from occi_service.client.catalogue import Catalogue
from occi_service.client.limits import Deadline
from occi_service.renderings import CategoryDocument


def test_the_client_imports_no_server() -> None:
    heavy = ["falcon", "gunicorn", "sqlalchemy", "prometheus_client", "jsonschema", "re2", "pydantic", "yaml"]
    program = f"import sys, occi_service.client; print([each for each in {heavy} if each in sys.modules])"
    # pyssf's Python 2 code causes warnings when it is compiled.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("base", "uri", "path"),
    [
        ("http://h", "http://h/a/1", "/a/1"),
        ("http://h:80/", "http://h/a/1?b=c", "/a/1?b=c"),
        ("https://h/m", "https://h:443/m/a/1", "/a/1"),
        ("http://h/m/", "/m/a/1", "/a/1"),
        ("http://[::1]:8080", "http://[::1]:8080/a/1", "/a/1"),
        ("http://h/m", "/other/a/1", "/other/a/1"),
        ("http://h", "https://h/a/1", "https://h/a/1"),
        ("http://h", "http://h:8080/a/1", "http://h:8080/a/1"),
        ("http://h", "http://other/a/1", "http://other/a/1"),
        ("http://h/m", "http://h/mm/a/1", "http://h/mm/a/1"),
        ("http://h", "urn:uuid:1", "urn:uuid:1"),
    ],
)
def test_uris_of_this_service_become_paths(base: str, uri: str, path: str) -> None:
    assert Address(base).here(uri) == path


def test_urls_of_an_address() -> None:
    address = Address("http://[::1]:8080/m")
    assert address.url("/a?key=hidden") == "http://[::1]:8080/m/a"
    assert address.target("/a?b=c") == "/m/a?b=c"
    assert (address.host, address.port) == ("::1", 8080)


@pytest.mark.parametrize("base", ["h", "/a", "ftp://h", "http://", "http://h/?a=b", "http://h/#a", "http://h/a b"])
def test_invalid_base_urls(base: str) -> None:
    with pytest.raises(ValueError):
        client.Client(base)


def test_the_catalogue_reloads_for_new_categories_and_caches_misses() -> None:
    now = 0.0
    offered = [CategoryDocument("http://example.org/a#", "one", "kind")]
    loads = 0

    def load() -> list[CategoryDocument]:
        nonlocal loads
        loads += 1
        return list(offered)

    catalogue = Catalogue(load, clock=lambda: now, miss_ttl=5.0)
    assert catalogue.find("http://example.org/a#one") is offered[0]
    assert catalogue.find("http://example.org/a#one") is offered[0]
    assert loads == 1
    assert catalogue.find("http://example.org/a#two") is None
    assert catalogue.find("http://example.org/a#two") is None
    assert loads == 2
    offered.append(CategoryDocument("http://example.org/a#", "two", "kind"))
    now = 5.0
    assert catalogue.find("http://example.org/a#two") is offered[1]
    assert loads == 3


def test_invalid_limits() -> None:
    with pytest.raises(ValueError, match="connect is 0"):
        client.Timeout(connect=0)
    with pytest.raises(ValueError, match="attempts is 0"):
        client.Retry(attempts=0)
    with pytest.raises(ValueError, match="not a rendering"):
        client.Client("http://h", rendering="text/html")  # type: ignore[arg-type]


def test_a_deadline_without_an_end() -> None:
    deadline = Deadline(client.Timeout(total=None), lambda: 1e9)
    assert deadline.remaining() is None
    assert deadline.wait(3.0) == 3.0


def test_backoff_grows_to_its_cap() -> None:
    retry = client.Retry(base=0.5, cap=3.0)
    assert [retry.delay(each, lambda: 1.0) for each in (1, 2, 3, 4, 10**6)] == [1.0, 2.0, 3.0, 3.0, 3.0]
    assert retry.delay(1, lambda: 0.0) == 0.0


FORKING = """
import os, sys
from occi_service import client

with client.Client(sys.argv[1]) as occi:
    assert occi.exists("/compute/")
    child = os.fork()
    # Each asks for something else, so that an answer which the other was to get shows.
    path, there = ("/compute/", True) if child else ("/compute/nothing", False)
    assert [occi.exists(path) for _ in range(100)] == [there] * 100
    if child == 0:
        os._exit(0)
    sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_fork_opens_connections_of_its_own(service_url: str) -> None:
    # In a separate process: pytest has threads, and a single-threaded child may wait for a lock that another one held.
    done = subprocess.run(
        [sys.executable, "-c", FORKING, service_url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
