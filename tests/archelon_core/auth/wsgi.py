"""Calls a WSGI application in memory, checked by wsgiref's validator."""

from __future__ import annotations

import dataclasses
import io
from typing import Any
from wsgiref import util, validate


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def call(
    app: Any, headers: dict[str, str] | None = None, *, path: str = "/demo/", method: str = "GET", **environ: Any
) -> Answer:
    """Header names as on the wire; further members of the environ as keywords."""
    full: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "REMOTE_ADDR": "192.0.2.1"}
    full["wsgi.input"] = io.BytesIO(b"")
    full["QUERY_STRING"] = full["SCRIPT_NAME"] = ""
    for name, value in (headers or {}).items():
        full["HTTP_" + name.upper().replace("-", "_")] = value
    full.update(environ)
    util.setup_testing_defaults(full)
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, fields: list[tuple[str, str]], exc_info: object = None) -> Any:
        started.append((status, fields))
        return lambda _chunk: None

    answer = validate.validator(app)(full, start_response)
    try:
        body = b"".join(answer)
    finally:
        answer.close()
    assert len(started) == 1
    status, fields = started[0]
    return Answer(int(status[:3]), dict(fields), body)
