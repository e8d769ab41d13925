"""Log lines: one record per line whatever its content, the request id, and no secret in any spelling."""

from __future__ import annotations

import base64
import contextvars
import io
import json
import logging
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_core import logs, redaction
from archelon_core.http import request_log

SECRET = 'p4"ss\\wörd\n& more'


class LogLines:
    """A separate logger whose lines a test reads."""

    def __init__(self, *secrets: str) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(logs.JsonFormatter(redaction.Redactor(secrets), service="test"))
        self.logger = logging.Logger("t")
        self.logger.addHandler(self.handler)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def last(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.text.splitlines()[-1])
        return line


def spellings(secret: str) -> list[str]:
    return [
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret)[1:-1])[1:-1],
        urllib.parse.quote_plus(secret),
        base64.b64encode(secret.encode()).decode(),
    ]


def test_a_secret_with_members_is_hidden_whole_and_in_parts() -> None:
    """As in a backend's exception: in Python's spelling, or a single member."""
    secret = {"user": "ann-the-admin", "keys": ["hunter22", {"pin": 12345678, "": None}], "on": True}
    lines = LogLines()
    with logs.follow_request("req-00000001"):
        logs.hide_in_request(secret)
        for shown in (secret, json.dumps(secret), secret["keys"], "hunter22", f"by ann-the-admin: {secret!r}"):
            lines.logger.info("cannot set %s", shown)
    assert "hunter22" not in lines.text
    assert "ann-the-admin" not in lines.text
    with logs.follow_request("req-00000002"):
        # The cost of a line does not grow with the number of one tenant's secrets.
        logs.hide_in_request([[f"word-{number}"] for number in range(100_000)])
        lines.logger.info("a line")
    assert lines.last["message"] == "a line"


def test_a_line() -> None:
    lines = LogLines()
    lines.logger.info("phase %s", "deploy", extra={"so_id": "1", "seconds": 0.5, "nested": {"a": [1, None, True]}})
    line = lines.last
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "t",
        "message": "phase deploy",
        "service": "test",
        "so_id": "1",
        "seconds": 0.5,
        "nested": {"a": [1, None, True]},
    }


def test_time_is_the_records_own_in_utc() -> None:
    record = logging.LogRecord("t", logging.INFO, "f", 1, "m", (), None)
    record.created = 1_700_000_000.25
    line = json.loads(logs.JsonFormatter(redaction.Redactor()).format(record))
    assert line["time"] == "2023-11-14T22:13:20.250000Z"


@given(st.text(), st.text())
def test_a_record_is_one_line_of_ascii(message: str, field: str) -> None:
    lines = LogLines()
    lines.logger.info(message.replace("%", "%%"), extra={"field": field})
    assert lines.text.count("\n") == 1
    assert lines.text.isascii()
    assert lines.text.rstrip("\n").isprintable()


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


def test_a_secret_is_hidden_in_every_spelling_and_place() -> None:
    lines = LogLines(SECRET)
    for spelled in spellings(SECRET):
        lines.logger.warning("message %s", spelled)
        lines.logger.warning("extra", extra={"field": {"deep": [spelled, {spelled: 1}]}, "raw": spelled.encode()})
        lines.logger.warning("object", extra={"error": ValueError(spelled)})
        try:
            try:
                raise KeyError(spelled)
            except KeyError as cause:
                raise RuntimeError(f"while using {spelled}") from cause
        except RuntimeError:
            lines.logger.exception("failed", stack_info=True)
    lines.logger.warning("unprintable", extra={"field": Unprintable()})
    for spelled in spellings(SECRET):
        assert spelled not in lines.text
    assert "wörd" not in lines.text
    assert redaction.HIDDEN in lines.text


TOKEN = "gAAAAABk-q"


@pytest.mark.parametrize(
    "result",
    [
        f"X-Auth-Token: {TOKEN}",
        f"x-subject-token={TOKEN}",
        f"sent {{'X-Auth-Token': '{TOKEN}', 'Accept': '*/*'}}",
        f"sent [('X-Subject-Token', '{TOKEN}')]",
        f"sent [(b'X-Auth-Token', b'{TOKEN}')]",
        f'sent {{"HTTP_X_AUTH_TOKEN": "{TOKEN}"}}',
        f"Authorization: Basic {TOKEN}, and more",
        f"authorization={TOKEN}",
        f"used bearer {TOKEN} there",
        f"Cookie: a=b; session={TOKEN}",
        f"GET https://user:{TOKEN}@example.org/x",
        f"eyJhbGciOiJFZERTQSJ9.eyJzdWIi.{TOKEN}",
    ],
)
def test_unregistered_tokens_are_hidden(result: str) -> None:
    lines = LogLines()
    lines.logger.info(result)
    lines.logger.info("%s", result)
    try:
        raise RuntimeError(result)
    except RuntimeError:
        lines.logger.exception("failed")
    assert TOKEN not in lines.text


def test_tokens_in_structures() -> None:
    lines = LogLines()
    headers = {"X-Auth-Token": TOKEN, "Accept": "text/plain"}
    lines.logger.info("m", extra={"headers": headers, "pairs": list(headers.items()), "x_auth_token": TOKEN})
    assert TOKEN not in lines.text
    assert lines.last["headers"] == {"X-Auth-Token": redaction.HIDDEN, "Accept": "text/plain"}


def test_other_text_is_unchanged() -> None:
    text = "missing Authorization header, token expired; see https://example.org/@user and a@b"
    assert redaction.Redactor(["hunter2"]).text(text) == text


def test_hostile_text_costs_little() -> None:
    redactor = redaction.Redactor(["hunter2"])
    for piece in ("eyJ-", "a.", "authorization ", "bearer ", "x-auth-token='", "a://b:"):
        started = time.thread_time()
        redactor.text(piece * (200_000 // len(piece)) + "@")
        assert time.thread_time() - started < 1


def test_a_secret_too_short_to_hide_is_refused() -> None:
    with pytest.raises(ValueError, match="make it longer"):
        redaction.Redactor(["abc"])


def test_a_field_cannot_pass_for_another() -> None:
    lines = LogLines()
    lines.logger.info("real", extra={"level": "CRITICAL", "time": "never"})
    assert lines.last["level"] == "INFO"
    assert lines.last["extra_level"] == "CRITICAL"


def test_arguments_that_do_not_fit_are_not_shown() -> None:
    lines = LogLines()
    lines.logger.info("one %s two %s", SECRET)
    assert lines.last["message"].startswith("one %s two %s [arguments do not fit")


def test_numbers_without_json() -> None:
    lines = LogLines()
    lines.logger.info("m", extra={"ratio": float("nan")})
    assert lines.last["ratio"] == "NaN"


@pytest.mark.parametrize("given_id", ["short", "a" * 129, "has space", "new\nline-id", "-starts-with-dash", ""])
def test_a_malformed_request_id_is_replaced(given_id: str) -> None:
    lines = LogLines()
    with logs.follow_request(given_id):
        assert logs.request_id() != given_id
        lines.logger.info("m")
        assert lines.last["request_id"] == logs.request_id()
    assert logs.request_id() == ""


PROGRAM = """
import logging, sys, threading, warnings
from archelon_core import logs, redaction
logs.configure(redaction.Redactor([{secret!r}]), level="DEBUG")
logs.configure(redaction.Redactor([{secret!r}]), level="DEBUG")
warnings.warn("careful with " + {secret!r})
logging.getLogger("a.b").debug("hello")
thread = threading.Thread(target=lambda: dict()[{secret!r}], name="worker")
thread.start(); thread.join()
raise RuntimeError({secret!r})
"""


def test_all_output_of_a_process_is_lines_without_secrets() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(secret=SECRET)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [record["message"].split(" (")[0] for record in records][1:] == [
        "hello",
        "uncaught exception in thread worker",
        "uncaught exception",
    ]
    assert records[0]["logger"] == "py.warnings"
    assert "RuntimeError" in records[-1]["exception"]
    assert "wörd" not in json.dumps(records, ensure_ascii=False)


def test_the_lines_of_a_context_go_to_a_stream_of_their_own() -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level, sys.excepthook, threading.excepthook
    process, own = io.StringIO(), io.StringIO()
    try:
        logs.configure(redaction.Redactor(), stream=process)

        def work() -> None:
            logs.write_to(own, redaction.Redactor([SECRET]), service="hosted")
            logging.info("of the context: %s", SECRET)
            thread = threading.Thread(target=contextvars.copy_context().run, args=(logging.info, "of its thread"))
            thread.start()
            thread.join()

        contextvars.copy_context().run(work)
        logging.info("of the process")
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers[:], sys.excepthook, threading.excepthook = before[0], before[2], before[3]
        logging.getLogger().setLevel(before[1])
    lines = [json.loads(each) for each in own.getvalue().splitlines()]
    assert [each["message"] for each in lines] == ["of the context: [hidden]", "of its thread"]
    assert {each["service"] for each in lines} == {"hosted"}
    assert [json.loads(each)["message"] for each in process.getvalue().splitlines()] == ["of the process"]


# The middleware.


class Served:
    """What the server received for one request."""

    def __init__(self, app: Any, **environ: str) -> None:
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/demo/",
            "QUERY_STRING": "",
            **environ,
        }
        body = app(self.environ, self.start)
        self.body = b"".join(body)
        if hasattr(body, "close"):
            body.close()

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.status = status
        self.headers = dict(headers)


@pytest.fixture
def access() -> Iterator[LogLines]:
    lines = LogLines()
    logger = logging.getLogger("archelon.access")
    logger.addHandler(lines.handler)
    before, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield lines
    logger.removeHandler(lines.handler)
    logger.setLevel(before)
    logger.propagate = propagate


def hello(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    environ[request_log.TENANT] = "acme"
    environ[request_log.ROUTE] = "collection"
    start_response("201 Created", [("Content-Type", "text/plain")])
    logging.getLogger("archelon.access").info("inside with %s", environ.get("HTTP_X_AUTH_TOKEN"))
    return [b"hello"]


def ticks() -> Any:
    times = iter(range(100))
    return lambda: float(next(times))


def test_an_access_line_and_the_forwarded_id(access: LogLines) -> None:
    seen: list[Any] = []

    def observe(method: str, status: int, *, route: str, seconds: float) -> None:
        seen.append((method, status, route, seconds))

    app = request_log.RequestLog(hello, clock=ticks(), observe=observe)
    served = Served(app, HTTP_X_REQUEST_ID="req-12345678", HTTP_X_AUTH_TOKEN="q7", QUERY_STRING="page=2&key=hunter2&x")
    assert served.headers["X-Request-Id"] == "req-12345678"
    line = access.last
    line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "archelon.access",
        "message": "request",
        "service": "test",
        "request_id": "req-12345678",
        "method": "GET",
        "path": "/demo/?page=2&key=…&…",
        "status": 201,
        "seconds": 1.0,
        "tenant": "acme",
    }
    assert seen == [("GET", 201, "collection", 1.0)]
    assert logs.request_id() == ""


def test_the_requests_own_token_is_hidden_in_its_lines(access: LogLines) -> None:
    Served(request_log.RequestLog(hello), HTTP_X_AUTH_TOKEN="a-token-of-some-sort")
    assert "inside with [hidden]" in access.text
    assert "a-token-of-some-sort" not in access.text


@pytest.mark.parametrize("given_id", ["x\ny-z-12345", "é" * 10, "a" * 300])
def test_a_bad_id_from_outside_is_replaced(access: LogLines, given_id: str) -> None:
    served = Served(request_log.RequestLog(hello, new_id=lambda: "req-made-here"), HTTP_X_REQUEST_ID=given_id)
    assert served.headers["X-Request-Id"] == "req-made-here"
    assert served.environ["HTTP_X_REQUEST_ID"] == "req-made-here"


def test_lines_can_be_turned_off(access: LogLines) -> None:
    served = Served(request_log.RequestLog(hello, access_lines=False))
    assert "X-Request-Id" in served.headers
    assert '"message":"request"' not in access.text


def test_a_path_cannot_forge_a_line(access: LogLines) -> None:
    Served(request_log.RequestLog(hello), PATH_INFO='/a\n{"level":"FATAL"}\x1b[2J' + "b" * 9000)
    assert len(access.text.splitlines()) == 2
    assert len(access.last["path"]) < 600


def test_a_failing_application_leaves_a_line(access: LogLines) -> None:
    def fails(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Served(request_log.RequestLog(fails))
    assert access.last["status"] == 500
    assert logs.request_id() == ""


def test_a_streamed_body_ends_the_request(access: LogLines) -> None:
    def streams(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        for part in (b"a", b"b"):
            logging.getLogger("archelon.access").info("part")
            yield part

    served = Served(request_log.RequestLog(streams), HTTP_X_REQUEST_ID="req-12345678")
    assert served.body == b"ab"
    records = [json.loads(line) for line in access.text.splitlines()]
    assert [record["message"] for record in records] == ["part", "part", "request"]
    assert {record["request_id"] for record in records} == {"req-12345678"}
    assert records[-1]["status"] == 200


def test_threads_do_not_mix_their_ids() -> None:
    seen: dict[str, str] = {}
    barrier = threading.Barrier(4)

    def work(name: str) -> None:
        with logs.follow_request(name):
            barrier.wait(60)
            seen[name] = logs.request_id()

    threads = [threading.Thread(target=work, args=(f"request-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {name: name for name in seen}
    assert len(seen) == 4
