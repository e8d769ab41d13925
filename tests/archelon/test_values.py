"""Parsing of values on the command line."""

from __future__ import annotations

import dataclasses
import io
import json
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon.errors import CommandError, Status
from archelon.values import ask_missing, read_values
from occi_service.client import AttributeDocument, CategoryDocument

KIND = CategoryDocument(
    "http://s#",
    "t",
    "kind",
    attributes={
        f"a.{kind}": AttributeDocument(type=kind) for kind in ("string", "number", "boolean", "array", "object")
    },
)
_PLAIN = st.none() | st.booleans() | st.integers() | st.text()


@given(st.text().filter(lambda text: not text.startswith("@") and text not in ("-", "?")))
def test_strings_are_unchanged(text: str) -> None:
    assert read_values([f"a.string={text}"], KIND) == {"a.string": text}


@given(st.recursive(_PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_json_is_unchanged(value: Any) -> None:
    assert read_values([f"a.string:={json.dumps(value)}"], KIND) == {"a.string": value}


def test_the_declared_type_decides() -> None:
    given_values = ["a.number=2.5", "a.boolean=true", "a.array=[1]", 'a.object={"x": 1}', "a.string=2.5"]
    assert read_values(given_values, KIND) == {
        "a.number": 2.5,
        "a.boolean": True,
        "a.array": [1],
        "a.object": {"x": 1},
        "a.string": "2.5",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.number=x", "^a.number: wanted: a number$"),
        ("a.number=true", "^a.number: wanted: a number$"),
        ("a.number=NaN", "^a.number: wanted: a number$"),
        ("a.boolean=1", "^a.boolean: wanted: true or false$"),
        ("a.boolean=yes", "^a.boolean: wanted: true or false$"),
        ("a.array={}", "^a.array: wanted: an array as JSON"),
        ("a.array=1,2", "^a.array: wanted: an array as JSON"),
        ("a.object=[]", "^a.object: wanted: an object as JSON"),
        ("a.nothing=1", "has no attribute 'a.nothing'"),
        ("novalue", "is not name=value"),
        ("=x", "is not name=value"),
        ("a.string:={", "^a.string: wanted: JSON$"),
    ],
)
def test_invalid_values_are_refused(text: str, words: str) -> None:
    with pytest.raises(CommandError, match=words) as refused:
        read_values([text], KIND)
    assert refused.value.status is Status.USAGE


def test_an_error_names_what_may_be_given() -> None:
    declared = dataclasses.replace(
        KIND,
        attributes={
            "a.size": AttributeDocument(),
            "a.url": AttributeDocument(mutable=False),
            "mcn.service.state": AttributeDocument(mutable=False),
            "occi.core.title": AttributeDocument(),
            "org.archelon.region": AttributeDocument(),
        },
    )
    with pytest.raises(CommandError, match=r"has no attribute 'size'; expected one of a\.size$"):
        read_values(["size=1"], declared)


class Terminal(io.StringIO):
    """Input that a terminal would give."""

    def isatty(self) -> bool:
        return True


class Secret(AttributeDocument):
    """The definition of an attribute that the service marks as secret."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.secret = True


LOCKED = CategoryDocument(
    "http://s#",
    "safe",
    "kind",
    attributes={
        "a.key": Secret(required=True),
        "a.pin": Secret(type="number"),
        "a.other": Secret(),
        "a.name": AttributeDocument(),
    },
)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A terminal whose user gives these answers, each without an echo."""
    given_answers: list[str] = []

    def hidden(text: str, **options: Any) -> str:
        assert options["hide_input"]
        assert options["err"]
        return given_answers.pop(0)

    monkeypatch.setattr("click.prompt", hidden)
    monkeypatch.setattr("archelon.values.sys", types.SimpleNamespace(stdin=Terminal(), stderr=Terminal()))
    return given_answers


@pytest.mark.parametrize("content", ["swordfish", "swordfish\n", "swordfish\r\n"])
def test_a_file_is_read_without_its_last_newline(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content.encode())
    assert read_values([f"a.string=@{file}"], KIND) == {"a.string": "swordfish"}
    file.write_text('{"x": [1]}')
    assert read_values([f"a.object=@{file}", f"a.string:=@{file}"], KIND) == {
        "a.object": {"x": [1]},
        "a.string": {"x": [1]},
    }


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("several\nlines\n"))
    assert read_values(["a.string=-"], KIND) == {"a.string": "several\nlines"}
    with pytest.raises(CommandError, match=r"a\.string and a\.number both read standard input"):
        read_values(["a.string=-", "a.number=-"], KIND)


@pytest.mark.parametrize("text", ["@x", "-", "?"])
def test_a_text_that_looks_like_a_source_is_given_as_json(text: str) -> None:
    assert read_values([f'a.string:="{text}"'], KIND) == {"a.string": text}


def test_a_source_that_cannot_be_read_is_named_and_its_content_is_not(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"a\.string: .*nothing: No such file.*a\.string:='\"@"):
        read_values([f"a.string=@{tmp_path}/nothing"], KIND)
    file = tmp_path / "secret"
    for content, words in (
        (b"\xffswordfish", "not text in UTF-8"),
        (b"swordfish", "wanted: a number"),
        (b"s" * (1 << 20) + b"s", "more than"),
    ):
        file.write_bytes(content)
        with pytest.raises(CommandError, match=words) as refused:
            read_values([f"a.number=@{file}"], KIND)
        assert "swordfish" not in str(refused.value)


def test_a_literal_secret_is_not_repeated_in_an_error() -> None:
    with pytest.raises(CommandError, match=r"^a\.pin: wanted: "):
        read_values(["a.pin=swordfish"], LOCKED)


def test_a_missing_secret_is_asked_for(answers: list[str]) -> None:
    answers += ["swordfish", "17", "@literally"]
    values = read_values(["a.name=x"], LOCKED)
    ask_missing(values, LOCKED, ["a.pin"])
    assert values == {"a.name": "x", "a.key": "swordfish", "a.pin": 17}
    assert read_values(["a.other=?"], LOCKED) == {"a.other": "@literally"}
    assert answers == []
    ask_missing(values, LOCKED)


def test_without_a_terminal_the_other_ways_are_named() -> None:
    with pytest.raises(CommandError, match=r"a\.key=@FILE, or a\.key=- for standard input") as refused:
        ask_missing({}, LOCKED)
    assert refused.value.status is Status.USAGE
    with pytest.raises(CommandError, match="no terminal"):
        read_values(["a.other=?"], LOCKED)
