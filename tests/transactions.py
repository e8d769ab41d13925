"""Has every test fail in which something slow happens inside a transaction for writing.

The product refuses what it knows to be slow (`archelon_core.transactions`). Here the same is asked of whatever comes by way of a
library: sockets that connect, names that are looked up, processes that start, pauses, by Python's own audit events; parsing of
YAML, archives, compression and templates, and digests of much, by their functions.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import sys
import tarfile
import zlib
from collections.abc import Callable
from typing import Any, Final

import jinja2
import yaml

from archelon_core.transactions import forbid_in_transaction

_EVENTS: Final = frozenset(("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "time.sleep"))
_FUNCTIONS: Final[tuple[tuple[Any, str], ...]] = (
    (yaml, "parse"),
    (yaml, "compose"),
    (yaml, "load"),
    (tarfile, "open"),
    (gzip, "decompress"),
    (zlib, "decompress"),
    (zlib, "decompressobj"),
    (jinja2.Environment, "from_string"),
)
#: Bytes whose digest is computed in about a millisecond.
_MUCH: Final = 1 << 20


def guard() -> None:
    """Once in a process."""
    sys.addaudithook(_acknowledged)
    for owner, name in _FUNCTIONS:
        setattr(owner, name, _refusing(getattr(owner, name), f"{owner.__name__}.{name}"))
    for name in ("sha256", "blake2b", "sha1"):
        setattr(hashlib, name, _refusing_much(getattr(hashlib, name)))


def _acknowledged(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        forbid_in_transaction(event)


def _refusing(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def refusing(*arguments: Any, **named: Any) -> Any:
        forbid_in_transaction(what)
        return function(*arguments, **named)

    return refusing


def _refusing_much(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refusing(data: bytes = b"", **named: Any) -> Any:
        if len(data) > _MUCH:
            forbid_in_transaction("a digest of much")
        return function(data, **named)

    return refusing
