"""The API client: what it retries and what not, watches, and discovery, against a server of this test."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from cloud_controller.platforms.kubernetes.api import (
    Api,
    ApiError,
    GoneError,
    ObjectNotFoundError,
    UnreachableError,
)
from cloud_controller.platforms.kubernetes.cluster import Cluster, Namespaces
from cloud_controller.platforms.kubernetes.discovery import ApiResource, Discovery, UnknownKindError

Answer = tuple[int, Any, dict[str, str]]


class Server:
    """Returns the given responses in order, and records the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.slept: list[float] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                outer.requests.append((self.command, self.path, body))
                status, content, headers = outer.answers.pop(0)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_PATCH(self) -> None:
                self.do_GET()

            def do_DELETE(self) -> None:
                self.do_GET()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.pool = urllib3.PoolManager(retries=False)

    def connect(self, method: str, path: str, headers: Any, body: Any, timeout: Any) -> Any:
        return self.pool.request(
            method, self.url + path, headers=headers, body=body, timeout=timeout, preload_content=False
        )

    def answer(self, *answers: int | Answer) -> None:
        self.answers += [
            each if isinstance(each, tuple) else (each, {"message": f"says {each}"}, {}) for each in answers
        ]

    @property
    def api(self) -> Api:
        return Api(self.connect, sleep=self.slept.append)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    made.pool.clear()
    thread.join()


def test_a_request_to_a_busy_server_is_retried_a_few_times(server: Server) -> None:
    server.answer(500, (429, {}, {"Retry-After": "1"}), 409, (200, {"kind": "Thing"}, {}))
    assert server.api.apply("/x", {"a": 1}) == {"kind": "Thing"}
    assert [each[0] for each in server.requests] == ["PATCH"] * 4
    assert server.requests[0][1] == "/x?fieldManager=archelon&force=true"
    assert server.slept == [0.1, 1.0, 0.4]
    server.answer(503, 503, 503, 503)
    with pytest.raises(ApiError, match="says 503") as refused:
        server.api.get("/x")
    assert not refused.value.final


@pytest.mark.parametrize(
    ("status", "kind", "final"), [(403, ApiError, True), (404, ObjectNotFoundError, True), (422, ApiError, True)]
)
def test_a_final_error_is_not_retried(server: Server, status: int, kind: type[ApiError], final: bool) -> None:
    server.answer(status)
    with pytest.raises(kind, match=f"says {status}") as refused:
        server.api.get("/x")
    assert refused.value.final is final
    assert len(server.requests) == 1


def test_deleting_a_missing_object_succeeds_and_the_uid_is_a_precondition(server: Server) -> None:
    server.answer(404)
    server.api.delete("/x", uid="u1")
    assert server.requests[0][2]["preconditions"] == {"uid": "u1"}


def test_an_unreachable_server_and_a_wrong_one_are_reported(server: Server) -> None:
    def refuse(*_arguments: Any) -> Any:
        raise urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]

    with pytest.raises(UnreachableError, match="does not respond: NewConnectionError"):
        Api(refuse, sleep=server.slept.append).get("/x")
    server.answer((200, b"<html>", {}))
    with pytest.raises(UnreachableError, match="is it a Kubernetes API"):
        server.api.get("/x")


def test_a_watch_yields_events_and_reports_an_expired_version(server: Server) -> None:
    events = [{"type": "ADDED", "object": {"n": 1}}, {"type": "MODIFIED", "object": {"n": 2}}]
    body = b"".join(json.dumps(each).encode() + b"\n" for each in events)
    server.answer((200, body, {}))
    assert list(server.api.watch("/x", version="7", seconds=5, labelSelector="a=b")) == events
    assert "resourceVersion=7" in server.requests[0][1]
    assert "allowWatchBookmarks=true" in server.requests[0][1]
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    server.answer((200, json.dumps(gone).encode() + b"\n", {}), (410, {"message": "too old"}, {}))
    for _ in range(2):
        with pytest.raises(GoneError, match="too old"):
            list(server.api.watch("/x", version="7", seconds=5))
    server.answer((200, b"nonsense\n", {}))
    with pytest.raises(UnreachableError, match="did not return JSON"):
        list(server.api.watch("/x", version="7", seconds=5))


def kinds(*names: str) -> Answer:
    listed = [
        {"name": f"{name.lower()}s", "kind": name, "namespaced": True, "verbs": ["list", "delete"]} for name in names
    ]
    return 200, {"resources": listed}, {}


def test_a_name_is_one_segment_of_a_path() -> None:
    pods = ApiResource("v1", "Pod", "pods", True, frozenset())
    assert pods.path("ns", "a/../../secrets/b") == "/api/v1/namespaces/ns/pods/a%2F..%2F..%2Fsecrets%2Fb"
    assert pods.path("ns", "a/log?container=c") == "/api/v1/namespaces/ns/pods/a%2Flog%3Fcontainer%3Dc"


def test_an_older_server_serves_the_kind_in_an_earlier_version(server: Server) -> None:
    discovery = Discovery(server.api)
    server.answer(404, kinds("PodDisruptionBudget"))
    found = discovery.find("policy/v1", "PodDisruptionBudget")
    assert found.path("ns", "a") == "/apis/policy/v1beta1/namespaces/ns/poddisruptionbudgets/a"
    # Both versions are cached now.
    assert discovery.find("policy/v1", "PodDisruptionBudget") == found
    assert len(server.requests) == 2


def test_a_removed_kind_is_unknown_at_the_next_lookup(server: Server) -> None:
    cluster = Cluster(server.api, "k", Namespaces("ns"))
    server.answer(kinds("Widget"), 404)
    with pytest.raises(ObjectNotFoundError):
        cluster.of_kind("e.org/v1", "Widget")
    server.answer(404, (200, {"groups": []}, {}), kinds("Pod"))
    with pytest.raises(UnknownKindError, match="no Widget"):
        cluster.of_kind("e.org/v1", "Widget")


def test_a_kind_that_is_not_served_is_reported_with_its_versions_and_found_once_defined(server: Server) -> None:
    now = [0.0]
    discovery = Discovery(server.api, clock=lambda: now[0])
    group = {"preferredVersion": {"groupVersion": "e.org/v2"}, "versions": [{"groupVersion": "e.org/v2"}]}
    server.answer(404, (200, {"groups": [group]}, {}), kinds("Pod"), kinds("Widget"))
    with pytest.raises(UnknownKindError, match=r"no Widget in e\.org/v1; it has it in e\.org/v2"):
        discovery.find("e.org/v1", "Widget")
    now[0] += 6
    server.answer(kinds("Widget"))
    assert discovery.find("e.org/v1", "Widget").plural == "widgets"
