"""Fails every test in which a slow operation runs inside a write transaction.

The product guards its own slow functions (`archelon_core.transactions`). This module extends the guard to libraries: socket
connects, name lookups, process starts and sleeps by Python's audit events; parsing of YAML, archives, compression and
templates, and digests of large data, by wrapping their functions.
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
#: A digest of this many bytes takes about a millisecond.
_LARGE: Final = 1 << 20


def guard() -> None:
    """Install the guard; call it once per process."""
    sys.addaudithook(_audit)
    for owner, name in _FUNCTIONS:
        setattr(owner, name, _guarded(getattr(owner, name), f"{owner.__name__}.{name}"))
    for name in ("sha256", "blake2b", "sha1"):
        setattr(hashlib, name, _guarded_digest(getattr(hashlib, name)))


def _audit(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        forbid_in_transaction(event)


def _guarded(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*arguments: Any, **named: Any) -> Any:
        forbid_in_transaction(what)
        return function(*arguments, **named)

    return guarded


def _guarded_digest(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(data: bytes = b"", **named: Any) -> Any:
        if len(data) > _LARGE:
            forbid_in_transaction("a digest of large data")
        return function(data, **named)

    return guarded
