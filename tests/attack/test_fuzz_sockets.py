"""Some hundreds of the fuzzer's requests over a real socket, with wrong lengths, broken chunks and raw bytes."""

from __future__ import annotations

import http.client
import os
import random
import secrets
import socket
import urllib.parse
from pathlib import Path
from typing import Any

from tests.service_manager.harness import Keys, ServiceManager, make_bundle, running

from .fuzz_installations import Installations, Target
from .fuzzing import Mutation

_REQUESTS = 400
_SEED = int(os.environ.get("FUZZ_SEED", secrets.randbelow(2**32)))


def test_over_a_socket(tmp_path: Path) -> None:
    installations = Installations(tmp_path, None)
    manager = ServiceManager(
        tmp_path, design_url="http://127.0.0.1:1/design", database_url=f"sqlite:///{tmp_path}/served.db", keys=Keys()
    )
    failures = []
    try:
        with installations.targets() as targets, running(manager):
            manager.publish(make_bundle(tmp_path / "bundle"))
            target = targets[0]
            for number in range(_REQUESTS):
                chance = random.Random(f"{_SEED}:{number}")
                sent = _raw(Mutation(chance, target).environ(chance.choice(target.requests)), chance, manager, target)
                status, body = _exchange(manager.port, sent)
                if (status >= 500 and status != 501) or b"Traceback" in body:
                    failures.append(f"seed {_SEED}, request {number}: {status} {body[:300]!r}\n  {sent[:500]!r}")
            assert manager.http("alice", "GET", "/-/").status == 200
            assert '"unexpected error' not in manager.log.read_text()
    finally:
        installations.close()
    assert not failures, "\n".join(failures)


def _raw(environ: dict[str, Any], chance: random.Random, manager: ServiceManager, target: Target) -> bytes:
    """Return the request as bytes, with users' tokens of the running service manager."""
    tokens = dict(zip(target.tokens, manager.realm.tokens.values(), strict=False))
    body: bytes = environ["wsgi.input"].getvalue()
    path = urllib.parse.quote(environ["PATH_INFO"].encode("latin-1"))
    query = f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else ""
    lines = [f"{environ['REQUEST_METHOD']} {path}{query} HTTP/1.1"]
    for name, value in environ.items():
        if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            shown = name.removeprefix("HTTP_").replace("_", "-").title()
            for old, new in tokens.items():
                value = value.replace(old, new)
            lines.append(f"{shown}: {value}")
    lines.append("Connection: close")
    if body and chance.random() < 0.2:
        lines = [line for line in lines if not line.startswith("Content-Length")]
        lines.append(
            chance.choice(("Content-Length: 1", f"Content-Length: {len(body) + 5}", "Transfer-Encoding: chunked"))
        )
        if lines[-1].endswith("chunked"):
            cut = len(body) // 2
            body = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (cut, body[:cut], len(body) - cut, body[cut:])
            if chance.random() < 0.5:
                body = body[: chance.randrange(len(body))]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def _exchange(port: int, sent: bytes) -> tuple[int, bytes]:
    """Return the response's status and body; 0 if the server closed the connection without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(connection, method=sent.split(b" ", 1)[0].decode("latin-1"))
            answer.begin()
            return answer.status, answer.read()
        except (http.client.HTTPException, ConnectionError):
            return 0, b""
