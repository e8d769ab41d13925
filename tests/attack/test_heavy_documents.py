"""Documents at and above the size limits, sent to a served cloud controller: other tenants' requests must still succeed.

Nothing here is timed. The process that checks documents is stopped (SIGSTOP), so that a request takes as long as a test needs,
while other requests have to complete.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from archelon_api import design
from benchmarks.heavy_requests import DOCUMENTS, ServedCloud
from tests.waiting import until

#: Web processes of a cloud controller.
_PROCESSES = 2
_LARGE = DOCUMENTS["one line repeated"]
_PROBLEMS = "org.archelon.validation.problems"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCloud]:
    with ServedCloud(tmp_path_factory.mktemp("cloud")) as served:
        yield served


@pytest.fixture
def cloud_of_either(tmp_path: Path, database_url: str) -> Iterator[ServedCloud]:
    """A cloud controller with its own database, of either kind."""
    with ServedCloud(tmp_path, database_url) as served:
        yield served


def children(cloud: ServedCloud) -> list[psutil.Process]:
    """Return the processes that check documents: one of each web process that has had a large one."""
    found = psutil.Process(cloud.pid).children(recursive=True)
    return [each for each in found if "archelon_core.child" in each.cmdline()]


def validate(cloud: ServedCloud, tenant: str, document: tuple[str, str] = _LARGE) -> tuple[int, Any, str | None]:
    """Have a document checked on its own connection; return status, content and Retry-After."""
    with cloud.tenant(tenant) as client:
        answer = client.validate(*document)
        return answer.status, answer.json(), answer.headers.get("Retry-After")


@contextlib.contextmanager
def stopped(cloud: ServedCloud) -> Iterator[list[psutil.Process]]:
    """Make each web process start its child, and stop the children (SIGSTOP)."""

    def all_running() -> bool:
        validate(cloud, "warm")
        return len(children(cloud)) == _PROCESSES

    with cloud.tenant("warm") as client:
        assert client.write() in (200, 201)
    until(all_running)
    held = children(cloud)
    for each in held:
        os.kill(each.pid, signal.SIGSTOP)
    try:
        yield held
    finally:
        resume(held)


def resume(held: list[psutil.Process]) -> None:
    """Resume the children that still exist."""
    for each in held:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGCONT)


@contextlib.contextmanager
def concurrent(number: int, ask: Callable[[], Any]) -> Iterator[queue.Queue[Any]]:
    """Send a request in several threads at once; yield a queue of the responses."""
    answers: queue.Queue[Any] = queue.Queue()
    threads = [threading.Thread(target=lambda: answers.put(ask())) for _ in range(number)]
    for each in threads:
        each.start()
    try:
        yield answers
    finally:
        for each in threads:
            each.join()


def test_others_write_while_a_large_document_is_checked(cloud_of_either: ServedCloud) -> None:
    cloud = cloud_of_either
    with cloud.tenant("other") as other:
        with stopped(cloud) as held, concurrent(_PROCESSES, lambda: validate(cloud, "warm")) as answers:
            written = 0
            while answers.empty() and written < 10:
                assert other.write() == 201
                assert other.remove() == 200
                written += 1
            resume(held)
        assert written == 10
        for _ in range(_PROCESSES):
            status, content, _ = answers.get()
            assert status == 200
            assert "more than 20000 values" in content["attributes"][_PROBLEMS][0]["message"]
        assert other.write() == 201


def test_heavy_requests_are_limited_per_tenant(cloud: ServedCloud) -> None:
    # Two are allowed in each process, so at least one of these exceeds the limit, whichever process gets each.
    number = 2 * _PROCESSES + 1
    with stopped(cloud) as held, concurrent(number, lambda: validate(cloud, "warm")) as answers:
        status, content, retry_after = answers.get()
        assert status == 429
        assert "worked on at once" in content["error"]["message"]
        assert retry_after == "1"
        with cloud.tenant("other") as other:
            assert other.write() in (200, 201)
            assert other.validate("manifest", "a: 1").status == 200
        resume(held)
    assert validate(cloud, "warm")[0] == 200


def test_a_killed_child_fails_only_its_own_request(cloud: ServedCloud) -> None:
    with stopped(cloud) as held, concurrent(1, lambda: validate(cloud, "warm")) as answers:
        for each in held:
            each.kill()
        status, content, _ = answers.get()
        assert status == 200
        problem = content["attributes"][_PROBLEMS][0]["message"]
        assert "it exited" in problem or "more than 20000 values" in problem
    assert "more than 20000" in validate(cloud, "warm")[1]["attributes"][_PROBLEMS][0]["message"]


def test_children_end_with_their_service(tmp_path: Path, sqlite_url: str) -> None:
    with ServedCloud(tmp_path, sqlite_url) as cloud, stopped(cloud) as held:
        pass
    until(lambda: not any(each.is_running() for each in held))


def test_a_million_lines_are_refused_before_the_body_is_read(cloud: ServedCloud) -> None:
    attributes = {
        "org.archelon.document.format": "infrastructure",
        "org.archelon.document.content": "- a\n" * 1_000_000,
    }
    body = json.dumps({"action": design.VALIDATE.scheme + design.VALIDATE.term, "attributes": attributes})
    address = urllib.parse.urlsplit(cloud.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
    connection.putrequest("POST", f"/design{design.VALIDATION.location}default?action={design.VALIDATE.term}")
    for name, value in (
        ("Authorization", f"Bearer {cloud.token('heavy')}"),
        ("Content-Type", "application/occi+json"),
        ("Content-Length", str(len(body))),
    ):
        connection.putheader(name, value)
    # Send the head only: a server that waited for the body would wait for ever.
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert b"larger than 1048576 bytes" in answer.read()
    connection.close()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_of_the_largest_size_are_checked_or_refused_by_a_limit(cloud: ServedCloud, name: str) -> None:
    with cloud.tenant("heavy") as client:
        assert client.write() in (200, 201)
    status, content, _ = validate(cloud, "heavy", DOCUMENTS[name])
    assert status == 200
    problems = content["attributes"][_PROBLEMS]
    assert len(problems) <= 100
    assert sum(len(json.dumps(each)) for each in problems) < 100_000
