"""Tables, documents and plain values of commands."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import pytest
import yaml

from archelon.errors import CommandError, Status
from archelon.output import Output

ID = "0d4c3b2a-1111-4222-8333-444455556666"
ROWS: list[dict[str, Any]] = [
    {"path": f"/demo/{ID}", "state": "fail", "message": "the region says no " * 30, "title": "", "tags": ["a", 1]},
    {"path": "/demo/2", "state": "active", "message": None, "title": "two\nlines", "tags": []},
]
COLUMNS = ("path", "state", "message", "title")


def printed(capsys: pytest.CaptureFixture[str], output: Output, rows: list[dict[str, Any]] = ROWS) -> str:
    output.rows(rows, COLUMNS, wide=("tags",), empty="nothing")
    return capsys.readouterr().out


def test_piped_tables_have_a_line_for_each_row_and_no_padding(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, Output()).splitlines()
    assert lines[0] == "PATH\tSTATE\tMESSAGE\tTITLE"
    assert lines[1].split("\t") == [ROWS[0]["path"], "fail", ROWS[0]["message"]]
    assert lines[2] == "/demo/2\tactive\t\ttwo lines"
    assert printed(capsys, Output("wide")).splitlines()[0].endswith("TITLE\tTAGS")


@pytest.mark.parametrize("width", [40, 60, 100, 2000])
def test_a_terminals_table_wraps_words_and_never_an_id(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = click.unstyle(printed(capsys, Output())).splitlines()
    assert [line for line in lines if line.startswith(ROWS[0]["path"] + "  fail")]
    assert all(line == line.rstrip() for line in lines)
    assert max(map(len, lines)) <= max(width, 80)
    assert " ".join(" ".join(lines).split()).count("says") == 30


def test_an_id_below_words_keeps_its_columns_in_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    rows = [
        {"name": "service manager", "state": "ready", "message": "says " * 30},
        {"name": ID, "state": "fail", "message": "says " * 30},
    ]
    Output().rows(rows, ("name", "state", "message"), empty="")
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    (state,) = {line.index(word) for line in lines for word in ("STATE", "ready", "fail") if word in line}
    assert state == len(ID) + 2
    assert max(map(len, lines)) <= 70


def test_documents_contain_everything_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, Output("json"))) == ROWS
    assert yaml.safe_load(printed(capsys, Output("yaml"))) == ROWS
    assert json.loads(printed(capsys, Output("json"), [])) == []


def test_columns_are_chosen_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("state", "tags")
    assert printed(capsys, Output("value", chosen)) == 'fail\t["a", 1]\nactive\t[]\n'
    assert printed(capsys, Output("table", chosen)).splitlines()[0] == "STATE\tTAGS"
    assert json.loads(printed(capsys, Output("json", chosen)))[1] == {"state": "active", "tags": []}
    with pytest.raises(CommandError, match="expected one of path, state, message, title, tags") as refused:
        printed(capsys, Output("value", ("stat",)))
    assert refused.value.status is Status.USAGE
    Output("value", ("state",)).fields(ROWS[1])
    Output("value", ("state",)).line("done", state="gone", path="/x")
    assert capsys.readouterr().out == "active\ngone\n"


def test_what_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;owned\x07\r\u202eevil\tx"
    Output().rows([{"title": hostile}], ["title"], empty="")
    Output().fields({"title": hostile})
    out = capsys.readouterr().out
    assert out.count("\\x1b]0;owned\\x07\\r\\u202eevil\\tx") == 2
    # A document is unchanged.
    Output("json").fields({"title": hostile})
    assert json.loads(capsys.readouterr().out)["title"] == hostile
