"""`archelon new`, `validate` and `test`: a new bundle is valid, and mistakes are reported clearly."""

from __future__ import annotations

from pathlib import Path

import pytest

import bundles
from archelon.errors import Status

from .harness import archelon


def test_a_new_bundle_is_valid_and_passes_its_tests(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = archelon("new", tmp_path / "greeter", "-o", "json")
    assert made.status == Status.DONE
    assert made.json["files"] == ["manifest.yaml", "server.py", "templates/local.yaml", "tests/test_bundle.py"]
    checked = archelon("validate", tmp_path / "greeter")
    assert checked.status == Status.DONE
    assert checked.out == f"{tmp_path / 'greeter'} is valid\n"
    assert archelon("test", tmp_path / "greeter").status == Status.DONE
    assert "2 passed" in capfd.readouterr().out
    manifest = bundles.Bundle.load(tmp_path / "greeter").manifest
    assert manifest.term == "greeter"
    assert set(manifest.attributes) == {"greeter.greeting", "greeter.url"}


def test_a_failing_test_is_a_failure(tmp_path: Path) -> None:
    archelon("new", tmp_path / "greeter")
    server = tmp_path / "greeter" / "server.py"
    server.write_text(server.read_text().replace('os.environ["GREETING"]', '"silence"'))
    assert archelon("test", tmp_path / "greeter").status == Status.FAILED


def test_problems_have_file_line_and_remedy(tmp_path: Path) -> None:
    archelon("new", tmp_path / "x", "--term", "other")
    manifest = tmp_path / "x" / "manifest.yaml"
    manifest.write_text(manifest.read_text() + "titel: no\n")
    result = archelon("validate", tmp_path / "x")
    assert result.status == Status.FAILED
    assert result.out.startswith("manifest.yaml:")
    as_json = archelon("validate", tmp_path / "x", "-o", "json")
    assert as_json.status == Status.FAILED
    assert as_json.json[0]["line"] == len(manifest.read_text().splitlines())
    assert as_json.json[0]["remedy"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sdk\nprint('hello')\nclass A(sdk.Orchestrator): pass\n", None),
        ("import sdk\n\nclass A: pass\n", "orchestrator.py:3:1: no class derives from sdk.Orchestrator; write"),
        (
            "import sdk\nimport nowhere\nclass A(sdk.Orchestrator): pass\n",
            "orchestrator.py:2:1: cannot be imported: ModuleNotFoundError: No module",
        ),
        ("import os\nos._exit(3)\nfrom near import A\nclass B(A): pass\n", "orchestrator.py: to import it, it exited"),
    ],
)
def test_code_is_imported_in_a_process_of_its_own(tmp_path: Path, code: str, expected: str | None) -> None:
    archelon("new", tmp_path / "x", "--term", "other")
    (tmp_path / "x" / "orchestrator.py").write_text(code)
    result = archelon("validate", tmp_path / "x")
    assert (result.status, result.out.startswith(expected or f"{tmp_path / 'x'} is valid")) == (
        Status.FAILED if expected else Status.DONE,
        True,
    ), result.out


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "file://server.py",
            "file://../../etc/passwd",
            "'../../etc/passwd' is outside the bundle; put the file into the bundle and name it",
        ),
        ("command:", "comand:", "the resource 'process' has no 'comand'; did you mean 'command'?"),
    ],
)
def test_a_template_is_read_as_when_it_is_deployed(tmp_path: Path, old: str, new: str, expected: str) -> None:
    archelon("new", tmp_path / "x", "--term", "other")
    template = tmp_path / "x" / "templates" / "local.yaml"
    text = template.read_text()
    assert old in text
    template.write_text(text.replace(old, new))
    result = archelon("validate", tmp_path / "x")
    assert result.status == Status.FAILED
    assert result.out.startswith("templates/local.yaml:")
    assert expected in result.out


@pytest.mark.parametrize("name", ["Upper", "1st", "a_b", "ä"])
def test_a_directorys_name_may_be_no_term(tmp_path: Path, name: str) -> None:
    result = archelon("new", tmp_path / name)
    assert result.status == Status.USAGE
    assert "give --term" in result.err
    assert not (tmp_path / name).exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "manifest.yaml").write_text("mine")
    assert archelon("new", tmp_path / "x").status == Status.CONFLICT
    assert (tmp_path / "x" / "manifest.yaml").read_text() == "mine"


def test_a_bundle_without_tests_is_reported(tmp_path: Path) -> None:
    result = archelon("test", tmp_path)
    assert result.status == Status.FAILED
    assert "has no directory `tests`" in result.err
