"""Values survive the round trip through client and server in every rendering."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from occi_service import client

from .conftest import RENDERINGS

THING = "http://example.org/occi/test#thing"
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

awkward = st.sampled_from(
    ["", '"', "\\", '\\"', ",", ";", "=", "a=b, c", "[1]", '{"a": 1}', "true", "12", "%2C", " x "]
)
pieces = st.sampled_from(
    ['"', "\\", ",", ";", "=", "<", ">", "\n", "\r", "\t", "\x00", "\x7f", "\x85", "\u2028", "é", "Å", "ю", "🙂"]
)
texts = st.one_of(
    awkward,
    st.lists(pieces, max_size=30).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
)
numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(texts, numbers, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=10,
)
attributes = st.fixed_dictionaries(
    {},
    optional={
        "test.string": texts,
        "test.number": numbers,
        "test.boolean": st.booleans(),
        "test.array": st.lists(values, max_size=5),
        "test.object": st.dictionaries(texts, values, max_size=5),
    },
)


@pytest.fixture(scope="module")
def clients(service_url: str) -> Iterator[dict[str, client.Client]]:
    """A client per rendering, shared by all examples."""
    made = {each: client.Client(service_url, rendering=each) for each in RENDERINGS}
    yield made
    for each in made.values():
        each.close()


def same(left: Any, right: Any) -> bool:
    """Whether values are equal and of the same types: True is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


@pytest.mark.parametrize("written", RENDERINGS)
@SETTINGS
@given(sent=attributes, title=texts)
def test_attributes(
    clients: dict[str, client.Client], written: client.MediaType, sent: dict[str, Any], title: str
) -> None:
    path = clients[written].create(THING, sent, title=title)
    for reader in clients.values():
        entity = reader.get(path)
        assert same(dict(entity.attributes), {**sent, "test.state": "new"})
        assert (entity.title or "") == title
    clients[written].delete(path)


@pytest.mark.parametrize("rendering", RENDERINGS)
@SETTINGS
@given(first=attributes, second=attributes)
def test_put_and_update(
    clients: dict[str, client.Client], rendering: client.MediaType, first: dict[str, Any], second: dict[str, Any]
) -> None:
    occi = clients[rendering]
    path = "/thing/chosen-" + rendering.replace("/", "-")
    replaced, _ = occi.put(path, THING, first)
    expected = {**first, "test.state": "new"}
    assert same(dict(replaced.attributes), expected)
    updated = occi.update(path, second)
    assert same(dict(updated.attributes), {**expected, **second})
    assert same(dict(occi.get(path).attributes), {**expected, **second})


def test_equal_values_of_other_types_are_distinct(clients: dict[str, client.Client]) -> None:
    occi = clients["application/occi+json"]
    occi.put("/thing/typed", THING)
    for change in (
        lambda attributes: occi.put("/thing/typed", THING, attributes),
        partial(occi.update, "/thing/typed"),
    ):
        for value in (1, True, 1.0, 1):
            change({"test.array": [value], "test.object": {"a": {"b": value}}})
            found = occi.get("/thing/typed").attributes
            assert same(found["test.array"], [value])
            assert same(found["test.object"], {"a": {"b": value}})


@pytest.mark.parametrize("rendering", RENDERINGS)
@SETTINGS
@given(colour=texts)
def test_action_attributes(clients: dict[str, client.Client], rendering: client.MediaType, colour: str) -> None:
    occi = clients[rendering]
    path, _ = occi.put("/thing/painted-" + rendering.replace("/", "-"), THING)
    changed = occi.act(path.location, "http://example.org/occi/test/action#colour", {"colour": colour})
    assert changed.attributes["test.state"] == colour


@pytest.mark.parametrize("rendering", RENDERINGS)
@SETTINGS
@given(text=texts)
def test_filters(clients: dict[str, client.Client], rendering: client.MediaType, text: str) -> None:
    occi = clients[rendering]
    path, _ = occi.put("/thing/filtered-" + rendering.replace("/", "-"), THING, {"test.string": text})
    assert path.location in list(occi.locations(THING, attributes={"test.string": text}))
    assert path.location not in list(occi.locations(THING, attributes={"test.string": text + "x"}))
