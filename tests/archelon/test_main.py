"""Common behaviour of all commands: lazy imports, exit statuses, errors on one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from archelon import main
from archelon.all_in_one import MODULES
from archelon.errors import CommandError, Status, as_command_error
from archelon_core.settings import SettingsError
from archelon_core.version import __version__
from occi_service import client

from .harness import ROOT, archelon


def test_help_imports_no_other_packages() -> None:
    script = "import sys; from archelon.main import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "instance" in ended.stdout
    for heavy in ("sqlalchemy", "falcon", "rich", "pydantic", "service_manager", "cloud_controller", "occi_service"):
        assert f"'{heavy}'" not in ended.stderr


def test_the_commands_of_tenants_import_only_what_a_request_needs() -> None:
    script = "import sys, archelon.instance, archelon.status, archelon.service; print(sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = ("sqlalchemy", "falcon", "rich", "pydantic", "jsonschema", "yaml", "cryptography", "bundles")
    for name in (*heavy, "pythonjsonlogger", "archelon_core.logs", "subprocess"):
        assert f"'{name}'" not in ended.stdout


def test_the_services_load_no_library_that_most_installations_do_not_use() -> None:
    script = (
        f"import sys, {', '.join(MODULES)}; from archelon_core.auth.policy import Policy; Policy(); "
        "print(sorted(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in ("alembic", "keystoneauth1", "requests", "heatclient", "kubernetes", "jsonschema", "psycopg"):
        assert f"'{name}'" not in ended.stdout


def _commands(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = [path]
    for name in command.list_commands(context):
        member = command.get_command(context, name)
        assert member is not None
        found += _commands(member, (*path, name))
    return found


@pytest.mark.parametrize("path", _commands(main.archelon, ()), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    result = archelon(*path, "--help")
    assert result.status == Status.DONE
    assert result.out.startswith("Usage: archelon")
    # More than the usage line: a description.
    assert len(result.out.splitlines()) > 4


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["instanc"], Status.USAGE, "No such command 'instanc'"),
        (["instance", "create"], Status.USAGE, "Missing argument 'SERVICE'"),
        (["instance", "list", "-o", "xml"], Status.USAGE, "'xml' is not one of"),
        (["validate", "/nowhere"], Status.USAGE, "does not exist"),
        (["realm", "token", "issue", "x"], Status.USAGE, "--tenant"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], status: Status, words: str) -> None:
    result = archelon(*arguments)
    assert result.status == status
    assert words in result.err
    assert result.err.startswith("archelon: ")
    assert len(result.err.splitlines()) == 1
    assert result.out == ""


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_path: Path) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr("bundles.validate", broken)
    result = archelon("validate", tmp_path)
    assert result.status == Status.FAILED
    assert result.err == "archelon: unexpected ZeroDivisionError: broken; `archelon --debug …` prints the traceback\n"
    shown = archelon("--debug", "validate", tmp_path)
    assert "Traceback" in shown.err


def test_the_version() -> None:
    assert archelon("--version").out == f"archelon {__version__}\n"


def _status_error(kind: type[client.StatusError], status: int) -> client.StatusError:
    return kind("so it is", method="GET", url="http://sm/x", status=status, title="T", where="path")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommandError("x", status=Status.TIMED_OUT), Status.TIMED_OUT),
        (_status_error(client.BadRequestError, 400), Status.USAGE),
        (_status_error(client.UnauthorizedError, 401), Status.REFUSED),
        (_status_error(client.ForbiddenError, 403), Status.REFUSED),
        (_status_error(client.NotFoundError, 404), Status.NOT_FOUND),
        (_status_error(client.ConflictError, 409), Status.CONFLICT),
        (_status_error(client.TooManyRequestsError, 429), Status.FAILED),
        (_status_error(client.ServerError, 500), Status.UNREACHABLE),
        (client.TransportError("refused", method="GET", url="http://sm/"), Status.UNREACHABLE),
        (client.MalformedAnswerError("no OCCI", method="GET", url="http://sm/"), Status.UNREACHABLE),
        (SettingsError(["x is not set"]), Status.USAGE),
        (PermissionError(13, "Permission denied", "/x"), Status.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_every_expected_error_has_a_status(error: Exception, status: Status) -> None:
    found = as_command_error(error)
    assert found is not None
    assert found.status is status
    assert str(found)


def test_a_sentence_of_the_service_continues() -> None:
    refused = client.ForbiddenError(
        "It needs a role.", method="GET", url="http://sm/x", status=403, title="T", where=""
    )
    assert str(as_command_error(refused)) == "not allowed: It needs a role; use another role with --as"


def test_an_unexpected_error_is_not_converted() -> None:
    assert as_command_error(ZeroDivisionError()) is None


def test_an_error_cannot_control_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_options: object) -> None:
        raise CommandError("web.0 printed \x1b[2J\r\nand ended")

    monkeypatch.setattr(main.archelon, "main", fail)
    assert main.main(["instance"]) == Status.FAILED
    assert capsys.readouterr().err == "archelon: web.0 printed \\x1b[2J\nand ended\n"
