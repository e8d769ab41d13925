"""Requests to a WSGI callable (PEP 3333) without a server."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

HOST = "occi.example.org"
JSON = "application/occi+json"

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Status as a number, header fields as sent (names in lower case), body as bytes."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Return the only field of this name."""
        found = [value for key, value in self.fields if key == name.lower()]
        assert len(found) == 1, (name, self.fields)
        return found[0]

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.fields)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def environ_of(
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    *,
    query: str = "",
    mount: str = "",
    length: int | None = None,
) -> dict[str, Any]:
    """Return a WSGI environ. `length` overrides Content-Length."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": mount,
        "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8888",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": HOST,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body or length is not None:
        environ["CONTENT_LENGTH"] = str(len(body) if length is None else length)
    for name, value in (headers or {}).items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ


def serve(application: Wsgi, environ: dict[str, Any]) -> Answer:
    """Call the application, and check that a server can send its response."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> None:
        started.append((status, headers))

    chunks = application(environ, start)
    body = b"".join(chunks)
    assert len(started) == 1
    status, headers = started[0]
    for name, value in headers:
        assert isinstance(name, str)
        assert isinstance(value, str)
        assert not set("\r\n\0") & set(name + value), (name, value)
        value.encode("latin-1")
    fields = tuple([(name.lower(), value) for name, value in headers])
    return Answer(int(status.split(" ")[0]), fields, body)


def call(
    application: Wsgi,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: str | bytes | dict[str, Any] | list[Any] = b"",
    *,
    query: str = "",
    mount: str = "",
    accept: str | None = None,
    kind: str | None = None,
) -> Answer:
    """Send one request. A dict or list is sent as JSON, text as text/plain, unless `kind` names another Content-Type."""
    sent = dict(headers or {})
    if isinstance(body, dict | list):
        body = json.dumps(body).encode()
        kind = kind or JSON
    elif isinstance(body, str):
        body = body.encode()
        kind = kind or "text/plain"
    if kind is not None:
        sent["Content-Type"] = kind
    if accept is not None:
        sent["Accept"] = accept
    return serve(application, environ_of(method, path, sent, body, query=query, mount=mount))


def path_of(answer: Answer) -> str:
    """Return the path of a Location on HOST."""
    assert answer.status == 201, (answer.status, answer.body)
    location = answer.header("Location")
    assert location.startswith(f"http://{HOST}/")
    return location.removeprefix(f"http://{HOST}")
