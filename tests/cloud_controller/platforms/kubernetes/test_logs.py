"""Logs of pods: the output of a container cannot move the position, and no line is lost."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import urllib3

from cloud_controller.platforms.kubernetes.api import Api
from cloud_controller.platforms.kubernetes.logs import read_log

POD = {"metadata": {"name": "p", "namespace": "ns"}, "status": {}}


def api(text: bytes) -> Api:
    """A server that returns this log for every container."""

    def answer(
        _method: str, path: str, _headers: Mapping[str, str], _body: bytes | None, _timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse:
        status, body = (200, text) if "/log?" in path else (404, json.dumps({"message": "not asked for"}).encode())
        return urllib3.HTTPResponse(io.BytesIO(body), status=status, preload_content=False)

    return Api(answer)


def test_a_carriage_return_does_not_begin_a_line() -> None:
    """One container draws a progress bar, another writes a forged timestamp in the future."""
    log = (
        b"2026-01-01T00:00:01.000000001Z 10 %\r20 %\n"
        b"2026-01-01T00:00:02.000000002Z x\r2999-01-01T00:00:00Z forged\n"
        b"2026-01-01T00:00:03.000000003Z end\n"
    )
    found = read_log(api(log), [POD], "c", 0)
    assert found.data == b"10 %\r20 %\nx\r2999-01-01T00:00:00Z forged\nend\n"
    assert found.next == 1767225603_000000003
