"""`archelon instance logs`: every byte once, across rotated logs and split characters, and none that controls a terminal."""

from __future__ import annotations

import contextlib
import io
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import archelon.connection
import archelon.follow
import archelon.instance_order
from archelon.errors import CommandError, Status
from archelon.instance import _log
from archelon.main import main
from archelon_api import deploy
from cloud_controller.platforms.local.logs import read_log
from occi_service.client.connections import Answer

#: Characters of two bytes and pieces of three, so that some characters are split.
TEXT = "äöü" * 20


class Served:
    """Deploy's responses for a log whose start was rotated away."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[int] = []

    def download(self, path: str, *, accept: str = "") -> Answer:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        self.asked.append(int(query["since"][0]))
        chunk = read_log(self.directory, self.asked[-1], 3)
        fields = {deploy.LOG_START.lower(): str(chunk.start), deploy.LOG_NEXT.lower(): str(chunk.next)}
        return Answer(200, fields, chunk.data)


def test_rotated_logs_are_skipped_and_no_character_is_split(tmp_path: Path) -> None:
    whole = TEXT.encode()
    (tmp_path / "100").write_bytes(whole[:60])
    (tmp_path / "160").write_bytes(whole[60:])
    served = Served(tmp_path)
    assert "".join(_log(served, "some-id", following=False)) == TEXT  # type: ignore[arg-type]
    assert served.asked[:2] == [0, 103]
    assert len(served.asked) == len(whole) // 3 + 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Services:
    """A connection whose service manager knows one instance, at a path of its tenant's choice."""

    def __init__(self, role: str, output: bytes) -> None:
        self.role = role
        self.output = output
        self.asked: list[str] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        def get(path: str) -> Any:
            return SimpleNamespace(location=path, attributes={"org.archelon.instance": "i-1"})

        def nothing(*_arguments: Any, **_options: Any) -> Iterator[Any]:
            return iter(())

        def get_bytes(_path: str, **_options: Any) -> bytes:
            return b'{"instances": []}'

        yield SimpleNamespace(get=get, list=nothing, get_bytes=get_bytes)

    @contextlib.contextmanager
    def module(self, _name: str) -> Iterator[Any]:
        def download(path: str, **_options: Any) -> Answer:
            self.asked.append(path)
            return Answer(200, {deploy.LOG_NEXT.lower(): "9"}, self.output if len(self.asked) == 1 else b"")

        yield SimpleNamespace(download=download)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Services]:
    """The connections that commands opened."""
    found: list[Services] = []

    def find(*, role: str, **_options: Any) -> Services:
        found.append(Services(role, b"\x1b]0;owned\x07a\tb\r\n\xc2\x9b2J\n"))
        return found[-1]

    monkeypatch.setattr(archelon.connection, "find", find)
    return found


@pytest.mark.parametrize(
    ("stream", "shown"),
    [
        (Terminal(), "\\x1b]0;owned\\x07a\tb\n\\x9b2J\n"),
        (io.StringIO(newline=""), "\x1b]0;owned\x07a\tb\r\n\x9b2J\n"),
    ],
    ids=["terminal", "file"],
)
def test_output_does_not_control_a_terminal(made: list[Services], stream: io.StringIO, shown: str) -> None:
    path = f"/hello/{uuid.uuid4()}"
    with contextlib.redirect_stdout(stream):
        assert main(["instance", "logs", path, "--node", "web.0", "--region", "a b"]) == Status.DONE
    assert stream.getvalue() == shown
    [services] = made
    assert services.role == "tenant"
    assert services.asked[0] == "/application/i-1/logs?since=0&node=web.0&region=a+b"


def test_the_orchestrators_log_is_for_operators(made: list[Services]) -> None:
    identifier = str(uuid.uuid4())
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["instance", "logs", identifier]) == Status.DONE
    [services] = made
    assert services.role == "operator"
    # The service manager lists no instance of this id.
    assert services.asked[0] == f"/application/{identifier}/logs?since=0"
    with contextlib.redirect_stderr(io.StringIO()) as problem:
        assert main(["instance", "logs", identifier, "--stack", "main"]) == Status.USAGE
    assert "give --node" in problem.getvalue()


def test_a_failures_message_does_not_control_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is an orchestrator's, so its author's."""
    failed = archelon.follow.Observation("fail", "no\x1b[2J", SimpleNamespace())
    monkeypatch.setattr(archelon.follow, "follow", lambda *_arguments, **_options: [failed])
    with contextlib.redirect_stderr(io.StringIO()) as shown, pytest.raises(CommandError, match=r"no\\x1b\[2J"):
        archelon.follow.await_settled(SimpleNamespace(), "/hello/1", timeout=1.0)
    assert r"fail: no\x1b[2J" in shown.getvalue()


def test_an_error_does_not_control_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may quote an orchestrator, such as why a roll has ended or a disposal failed."""

    def find(**_options: Any) -> None:
        raise CommandError("the roll is failed: \x1b]0;owned\x07")

    monkeypatch.setattr(archelon.connection, "find", find)
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        assert main(["instance", "list"]) == Status.FAILED
    assert shown.getvalue() == "archelon: the roll is failed: \\x1b]0;owned\\x07\n"


def test_the_disposal_of_several_does_not_control_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = archelon.follow.Observation("fail", "no\x1b[2J", SimpleNamespace())
    monkeypatch.setattr(archelon.instance_order, "follow", lambda *_arguments, **_options: [failed])
    manager = SimpleNamespace(delete=lambda *_arguments, **_options: None)
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        archelon.instance_order.delete_all(manager, ["/hello/1"], force=False, timeout=1.0)
    assert r"failed: no\x1b[2J" in shown.getvalue()
