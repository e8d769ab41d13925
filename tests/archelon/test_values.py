"""Parsing of values on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon.errors import CommandError, Status
from archelon.lookup import read_values
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


@given(st.text())
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
        ("a.number=x", "is not JSON"),
        ("a.number=true", "of type number"),
        ("a.boolean=1", "of type boolean"),
        ("a.array={}", "of type array"),
        ("a.object=[]", "of type object"),
        ("a.nothing=1", "has no attribute 'a.nothing'"),
        ("novalue", "is not name=value"),
        ("=x", "is not name=value"),
        ("a.string:={", "is not JSON"),
    ],
)
def test_invalid_values_are_refused(text: str, words: str) -> None:
    with pytest.raises(CommandError, match=words) as refused:
        read_values([text], KIND)
    assert refused.value.status is Status.USAGE
