"""Gunicorn and a worker in real processes: header, limits, draining, metrics, readiness, log lines."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import json
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

SERVER = "Archelon/0.1.0 OCCI/1.2"
SECRET = "hunter2-is-the-word"

WEB = """
import os, sys, threading
from pathlib import Path
import prometheus_client  # before serve(), as a command line that imports everything does
from archelon_core import logs, redaction
from archelon_core.http import server
from archelon_core.http.connection import ConnectionLimits

directory = Path(sys.argv[1])
logs.configure(redaction.Redactor([{secret!r}]), level="DEBUG")

def app_factory():
    import falcon
    from archelon_core import health, metrics
    from archelon_core.http import request_log

    registry = prometheus_client.CollectorRegistry()

    class Demo:
        def on_get(self, request, response):
            request.env[request_log.TENANT] = "acme"
            request.env[request_log.ROUTE] = "entity"
            if request.get_param("own"):
                response.set_header("Server", request.get_param("own"))
            response.text = str(os.getpid())

    class Slow:
        def on_get(self, request, response):
            (directory / "running").touch()
            while not (directory / "go").exists():
                threading.Event().wait(0.01)
            response.text = "done"

    class Reads:
        def on_post(self, request, response):
            response.text = str(len(request.bounded_stream.read()))

    class Fails:
        def on_get(self, request, response):
            raise RuntimeError("with " + {secret!r})

    def database():
        if (directory / "broken").exists():
            raise ConnectionError({secret!r})

    app = falcon.App()
    app.add_route("/demo", Demo())
    app.add_route("/slow", Slow())
    app.add_route("/reads", Reads())
    app.add_route("/fails", Fails())
    app.add_route("/healthz", health.AliveResource())
    app.add_route("/readyz", health.ReadyResource(health.Readiness([health.Check("database", database)])))
    app.add_route("/metrics", metrics.MetricsResource(registry))
    return request_log.RequestLog(app, observe=metrics.RequestMetrics(registry).observe)

def when_ready(addresses):
    print(addresses[0][1], flush=True)

server.serve(
    app_factory, bind="127.0.0.1:0", server={server!r}, workers=2, threads=2, graceful_timeout=10,
    limits=ConnectionLimits(seconds=3.0), when_ready=when_ready,
)
"""

WORKER = """
import sys, threading
from pathlib import Path
import prometheus_client
from archelon_core import health, logs, redaction
from archelon_core.http import server

directory = Path(sys.argv[1])
logs.configure(redaction.Redactor([{secret!r}]))
steps = prometheus_client.Counter("archelon_steps", "Steps.")

class Steps:
    def start(self):
        steps.inc()

    def drain(self, timeout):
        (directory / "draining").touch()
        while not (directory / "go").exists():
            threading.Event().wait(0.01)
        return True

def broken():
    if (directory / "hangs").exists():
        threading.Event().wait()

sys.exit(server.run_worker(
    Steps(), port=0, checks=[health.Check("queue", broken, timeout=0.2)], drain_timeout=20,
    when_ready=lambda port: print(port, flush=True),
))
"""


@dataclasses.dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    directory: Path
    errors: Path

    def get(self, path: str, **headers: str) -> tuple[int, list[tuple[str, str]], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read().decode()

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while not (self.directory / name).exists():
            assert time.monotonic() < deadline, self.errors.read_text()
            threading.Event().wait(0.01)

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.errors.read_text().splitlines()]


@contextlib.contextmanager
def started(program: str, directory: Path) -> Iterator[Running]:
    errors = directory / "stderr"
    source = program.format(secret=SECRET, server=SERVER)
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", source, str(directory)], stdout=subprocess.PIPE, stderr=stream, text=True
        )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], 60)
        line = process.stdout.readline() if readable else ""
        assert line, errors.read_text()
        yield Running(process=process, port=int(line), directory=directory, errors=errors)
    finally:
        (directory / "go").touch()
        if process.poll() is None:
            process.terminate()
        with process:
            process.wait(60)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(WEB, tmp_path_factory.mktemp("web")) as running:
        yield running


def server_fields(headers: list[tuple[str, str]]) -> list[str]:
    return [value for name, value in headers if name.lower() == "server"]


@pytest.mark.parametrize(("path", "status"), [("/demo", 200), ("/none", 404), ("/fails", 500), ("/healthz", 200)])
def test_there_is_one_server_field(web: Running, path: str, status: int) -> None:
    got, headers, _ = web.get(path)
    assert got == status
    assert server_fields(headers) == [SERVER]


def test_the_applications_own_server_field_wins(web: Running) -> None:
    _, headers, _ = web.get("/demo?own=Other/2.0%20OCCI/1.2")
    assert server_fields(headers) == ["Other/2.0 OCCI/1.2"]


def raw(web: Running, request: bytes) -> str:
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode("latin-1")


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /demo HTTP/1.1\r\nHost: a\r\nX-Big: " + b"x" * 17_000 + b"\r\n\r\n", "431"),
        (b"GET /demo HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 300 + b"\r\n", "431"),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "414"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", "400"),
    ],
)
def test_responses_of_gunicorn_itself(web: Running, request_text: bytes, status: str) -> None:
    head = raw(web, request_text).partition("\r\n\r\n")[0].split("\r\n")
    assert head[0].split(" ")[1] == status
    assert [line for line in head if line.lower().startswith("server:")] == [f"Server: {SERVER}"]


@pytest.mark.parametrize(
    "begun", [b"GET /demo HTTP/1.1\r\nHost:", b"POST /reads HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"]
)
def test_clients_that_disconnect_during_a_request_occupy_no_thread(web: Running, begun: bytes) -> None:
    """More of them than threads; new clients are served nonetheless."""
    with contextlib.ExitStack() as stack:
        gone = [stack.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=60)) for _ in range(8)]
        for each in gone:
            each.sendall(begun)
        assert web.get("/demo")[0] == 200
        # Each is disconnected, possibly after a response.
        for each in gone:
            with contextlib.suppress(ConnectionResetError):
                while each.recv(65536):
                    pass


def test_an_occi_header_of_16_kib_passes(web: Running) -> None:
    status, _, _ = web.get("/demo", X_OCCI_Attribute="a" * 16 * 1024)
    assert status == 200


def test_connections_are_kept_alive(web: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    with contextlib.closing(connection):
        pids = set()
        for _ in range(3):
            connection.request("GET", "/demo")
            pids.add(connection.getresponse().read())
        assert len(pids) == 1


def count(text: str, **labels: str) -> float:
    total = 0.0
    for found, value in re.findall(r"^archelon_request_seconds_count\{(.*)\} (.*)$", text, re.MULTILINE):
        if all(f'{name}="{wanted}"' in found for name, wanted in labels.items()):
            total += float(value)
    return total


def pids_of_both(web: Running) -> collections.Counter[str]:
    """Send requests until both worker processes have responded; count the responses of each."""
    answers: collections.Counter[str] = collections.Counter()
    deadline = time.monotonic() + 60
    while len(answers) < 2 and time.monotonic() < deadline:
        answers[web.get("/demo")[2]] += 1
    return answers


def test_metrics_add_up_over_the_worker_processes(web: Running) -> None:
    entities = {"method": "GET", "status": "2xx", "route": "entity"}
    before = count(web.get("/metrics")[2], **entities)
    answers = pids_of_both(web)
    asked = sum(answers.values())
    assert len(answers) == 2
    for _ in range(6):
        assert count(web.get("/metrics")[2], **entities) == before + asked
    text = web.get("/metrics")[2]
    assert "/demo" not in text
    assert set(re.findall(r'route="([^"]*)"', text)) <= {"entity", "other"}


def test_readiness_changes_to_503_and_back(web: Running) -> None:
    status, _, body = web.get("/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "checks": {"database": "ok"}})
    (web.directory / "broken").touch()
    try:
        status, _, body = web.get("/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "checks": {"database": "failed (ConnectionError)"}})
        assert web.get("/healthz")[0] == 200
    finally:
        (web.directory / "broken").unlink()
    assert web.get("/readyz")[0] == 200


def test_sigterm_lets_a_running_request_finish_and_leaves_clean_lines(tmp_path: Path) -> None:
    with started(WEB, tmp_path) as running:
        running.get("/demo?x=" + SECRET, X_Auth_Token="a-token-in-a-header", X_Request_Id="req-12345678")
        running.get("/fails", X_Auth_Token="a-token-in-a-header")
        answers: list[tuple[int, str]] = []

        def ask() -> None:
            status, _, body = running.get("/slow")
            answers.append((status, body))

        thread = threading.Thread(target=ask)
        thread.start()
        running.wait_for("running")
        running.process.send_signal(signal.SIGTERM)
        # The idle worker exits at once, so the signal has reached the workers.
        deadline = time.monotonic() + 60
        while "Worker exiting" not in running.errors.read_text():
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        assert answers == []
        (tmp_path / "go").touch()
        thread.join(60)
        assert answers == [(200, "done")]
        assert running.process.wait(60) == 0
        lines = running.lines

    text = running.errors.read_text()
    assert SECRET not in text
    assert "a-token-in-a-header" not in text
    assert {"gunicorn.error", "archelon.access"} <= {str(line["logger"]) for line in lines}
    request = next(line for line in lines if line.get("request_id") == "req-12345678")
    assert {name: request[name] for name in ("path", "status", "tenant")} == {
        "path": "/demo?x=…",
        "status": 200,
        "tenant": "acme",
    }


def test_when_the_arbiter_was_killed_its_port_is_free_while_a_running_request_finishes(tmp_path: Path) -> None:
    with started(WEB, tmp_path) as running:
        workers = psutil.Process(running.process.pid).children()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)) as slow:
            # Kept alive, and in the middle of its second request.
            slow.request("GET", "/demo")
            slow.getresponse().read()
            slow.request("GET", "/slow")
            running.wait_for("running")
            running.process.kill()

            def is_free() -> bool:
                with socket.socket() as probe:
                    # As gunicorn binds it.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind(("127.0.0.1", running.port))
                    except OSError:
                        return False
                    return True

            # Sooner than the graceful timeout, after which running requests are dropped: the request is answered later.
            until(is_free, "the port is free")
            (tmp_path / "go").touch()
            answer = slow.getresponse()
            assert (answer.status, answer.read()) == (200, b"done")
        until(lambda: not any(each.is_running() for each in workers), "the workers ended")


def test_the_next_start_removes_directories_of_killed_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    for name in ("killed", "living", "next"):
        (tmp_path / name).mkdir()
    with started(WEB, tmp_path / "killed") as killed:
        [left] = temporary.iterdir()
        arbiter = psutil.Process(killed.process.pid)
        # The port is reported before the workers run; one forked after the scan would live on for a moment.
        workers = until(lambda: len(found := arbiter.children()) == 2 and found, "both workers are there")
        processes = [arbiter, *workers]
        for each in processes:
            each.kill()
        psutil.wait_procs(processes, timeout=60)
    assert list(temporary.iterdir()) == [left]
    with started(WEB, tmp_path / "living") as living:
        assert not left.exists()
        [used] = temporary.iterdir()
        with started(WEB, tmp_path / "next") as another:
            assert used.exists()
            living.get("/demo")
            assert "archelon_request_seconds" in living.get("/metrics")[2]
            assert another.end() == 0
        assert list(temporary.iterdir()) == [used]
    assert list(temporary.iterdir()) == []


EARLY = """
import os, signal
from pathlib import Path

def signal_the_first():
    try:
        (Path(sys.argv[1]) / "signalled").touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGTERM)

os.register_at_fork(after_in_child=signal_the_first)
"""


def test_a_freshly_forked_worker_handles_sigterm(tmp_path: Path) -> None:
    with started(WEB.replace("server.serve(", EARLY + "server.serve("), tmp_path) as running:
        deadline = time.monotonic() + 60
        while "Worker exiting" not in running.errors.read_text():
            assert time.monotonic() < deadline, running.errors.read_text()
            threading.Event().wait(0.01)
        # Its replacement serves, and the shared directory still exists.
        assert len(pids_of_both(running)) == 2
        assert running.end() == 0


def test_a_worker_drains_on_sigterm(tmp_path: Path) -> None:
    with started(WORKER, tmp_path) as running:
        assert running.get("/healthz")[0] == 200
        # The check has 0.2 s, which its thread may need to start on a busy machine.
        until(lambda: running.get("/readyz")[0] == 200, "it is ready")
        assert "archelon_steps_total 1.0" in running.get("/metrics")[2]
        assert running.get("/other")[0] == 404

        (tmp_path / "hangs").touch()
        for _ in range(3):
            status, _, body = running.get("/readyz")
            assert (status, json.loads(body)["checks"]) == (503, {"queue": "no answer within 0.2 s"})

        running.process.terminate()
        running.wait_for("draining")
        status, _, body = running.get("/readyz")
        assert status == 503
        assert json.loads(body)["checks"]["process"].startswith("draining")
        (tmp_path / "go").touch()
        assert running.process.wait(60) == 0
        assert [line["message"] for line in running.lines if line["logger"] == "archelon_core.http.server"] == [
            "worker started",
            "worker draining",
            "worker stopped",
        ]


def test_a_second_signal_ends_the_wait(tmp_path: Path) -> None:
    with started(WORKER, tmp_path) as running:
        running.process.terminate()
        running.wait_for("draining")
        running.process.terminate()
        assert running.process.wait(60) == 1


def test_the_server_imports_neither_settings_nor_metrics() -> None:
    program = (
        "import sys, archelon_core.http.server\n"
        "print([name for name in ('pydantic', 'prometheus_client', 'sqlalchemy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
