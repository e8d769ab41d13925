"""Attributes through the service: types, defaults, required ones, patterns, in each rendering that supports them."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest

import occi_service
from occi_service.attributes import Attribute, check, whole_number
from occi_service.renderings import Bare
from tests.occi_service.server.calls import JSON, call, path_of
from tests.occi_service.server.shop import BOX_TEXT, BOX_TYPE, LABEL_TYPE, Shop


def create(shop: Shop, attributes: dict[str, Any], mixins: list[str] | None = None) -> Any:
    body = {"kind": BOX_TYPE, "attributes": {"shop.name": "a", **attributes}, "mixins": mixins or []}
    return call(shop, "POST", "/box/", body=body, accept=JSON)


def test_defaults_are_applied_and_may_be_overridden(shop: Shop) -> None:
    shown = call(shop, "GET", path_of(create(shop, {})), accept=JSON).json["attributes"]
    assert shown == {"shop.name": "a", "shop.count": 1, "shop.colour": "grey", "shop.serial": "S-1"}
    path = path_of(create(shop, {"shop.count": 2.5, "shop.colour": "red"}, [LABEL_TYPE]))
    shown = call(shop, "GET", path, accept=JSON).json["attributes"]
    assert (shown["shop.count"], shown["shop.colour"], shown["shop.text"]) == (2.5, "red", "none")


@pytest.mark.parametrize(
    ("attributes", "name", "expected"),
    [
        ({"shop.name": None}, "shop.name", "a string"),
        ({"shop.name": "Upper"}, "shop.name", "matches"),
        ({"shop.name": "a\n"}, "shop.name", "matches"),
        ({"shop.count": "many"}, "shop.count", "a number"),
        ({"shop.count": True}, "shop.count", "a number"),
        ({"shop.fragile": 1}, "shop.fragile", "a boolean"),
        ({"shop.fragile": "yes"}, "shop.fragile", "a boolean"),
        ({"shop.tags": ["a", 1]}, "shop.tags", "fits"),
        ({"shop.tags": {}}, "shop.tags", "an array"),
        ({"shop.labels": []}, "shop.labels", "an object"),
        ({"shop.note": 5}, "shop.note", "a string"),
        ({"shop.serial": "mine"}, "shop.serial", "the provider alone"),
        ({"shop.colr": "red"}, "shop.colr", "shop.colour"),
        ({"shop.text": "needs the mixin"}, "shop.text", "not an attribute here"),
    ],
)
def test_errors_name_the_attribute_and_the_expected_value(
    shop: Shop, attributes: dict[str, Any], name: str, expected: str
) -> None:
    answer = create(shop, attributes)
    assert answer.status == 400
    assert answer.json["error"]["where"] == f"attributes.{name}"
    assert expected in answer.json["error"]["message"]
    assert call(shop, "GET", "/", accept="text/uri-list").body == b""


def test_missing_required_attributes_are_refused(shop: Shop) -> None:
    answer = call(shop, "POST", "/box/", body=BOX_TEXT, accept=JSON)
    assert answer.status == 400
    assert answer.json["error"] == {
        "status": 400,
        "title": "Bad Request",
        "message": "shop.name is required: a string",
        "where": "attributes.shop.name",
    }


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('shop.count="12"', "shop.count", 12),
        ("shop.count=12", "shop.count", 12),
        ("shop.count=-1.5e3", "shop.count", -1500.0),
        ("shop.fragile=true", "shop.fragile", True),
        ('shop.fragile="false"', "shop.fragile", False),
        ("shop.note=12", "shop.note", "12"),
        ('shop.note="a \\"b\\", c; d=e"', "shop.note", 'a "b", c; d=e'),
        (r'shop.note="C:\dir"', "shop.note", r"C:\dir"),
        ('shop.note=""', "shop.note", ""),
        ('shop.tags="[\\"a\\",\\"b\\"]"', "shop.tags", ["a", "b"]),
        ('shop.labels="{\\"a\\":{\\"b\\":1}}"', "shop.labels", {"a": {"b": 1}}),
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "text/occi"])
def test_text_takes_the_type_of_the_attribute(shop: Shop, text: str, name: str, value: Any, kind: str) -> None:
    headers = {"Category": BOX_TEXT.removeprefix("Category: ").strip(), "X-OCCI-Attribute": f'shop.name="a", {text}'}
    if kind == "text/occi":
        answer = call(shop, "POST", "/box/", headers, kind=kind)
    else:
        answer = call(
            shop, "POST", "/box/", body="\r\n".join([f"{name.upper()}: {text}" for name, text in headers.items()])
        )
    path = path_of(answer)
    assert call(shop, "GET", path, accept=JSON).json["attributes"][name] == value
    # The text is accepted as it is shown.
    shown = call(shop, "GET", path)
    assert call(shop, "PUT", path, body=shown.text).status == 200
    assert call(shop, "GET", path).body == shown.body


@pytest.mark.parametrize(
    "text",
    [
        'shop.tags="[NaN]"',
        'shop.labels="{\\"a\\":Infinity}"',
        'shop.labels="{\\"a\\":1e999}"',
        'shop.labels="{\\"a\\":1,\\"a\\":2}"',
        'shop.labels="{\\"a\\":\\"\\\\ud800\\"}"',
        'shop.labels="' + '{\\"a\\":' * 200 + "1" + "}" * 200 + '"',
        'shop.labels="{\\"a\\":' + "9" * 5000 + '}"',
        'shop.labels="{"',
    ],
)
def test_json_in_strings_is_parsed_as_strictly_as_bodies(shop: Shop, text: str) -> None:
    answer = call(shop, "POST", "/box/", body=BOX_TEXT + f'X-OCCI-Attribute: shop.name="a", {text}')
    assert answer.status == 400, answer
    assert call(shop, "GET", "/", accept=JSON).json == {}


def test_patterns_match_in_linear_time(shop: Shop) -> None:
    long = "a" * 500_000
    took = []
    for _ in range(3):
        start = time.thread_time()
        answer = create(shop, {"shop.slow": long})
        took.append(time.thread_time() - start)
        assert answer.status == 400
    assert len(answer.body) < 1000
    # A backtracking engine needs 2**500000 steps.
    assert min(took) < 0.5, took
    assert create(shop, {"shop.slow": long + "b"}).status == 201


def test_a_client_may_send_back_what_the_provider_set(shop: Shop) -> None:
    path = path_of(create(shop, {}))
    assert call(shop, "POST", path, body={"attributes": {"shop.serial": "S-1"}}).status == 200
    assert call(shop, "POST", path, body={"attributes": {"shop.serial": "S-2"}}).status == 400


def test_links_have_attributes_of_their_kind(shop: Shop) -> None:
    other = path_of(create(shop, {}))
    line = f'Link: <{other}>; category="http://example.org/shop#rope"; shop.length='
    body = BOX_TEXT + 'X-OCCI-Attribute: shop.name="b"\n' + line
    (link,) = call(shop, "GET", path_of(call(shop, "POST", "/box/", body=body + "2")), accept=JSON).json["links"]
    assert link["attributes"] == {"shop.length": 2}
    refused = call(shop, "POST", "/box/", body=body + "x", accept=JSON)
    assert refused.status == 400
    assert refused.json["error"]["where"] == "links[0].attributes.shop.length"


def test_keywords_forbidden_in_patterns_may_be_values() -> None:
    """A manifest may list such a keyword as a value."""
    attribute = occi_service.Attribute(pattern={"enum": ["$ref", "patternProperties"], "description": "no $ref"})
    assert check("a", "$ref", attribute) == "$ref"
    for denied in ({"$ref": "#"}, {"items": {"$dynamicRef": "#"}}, {"allOf": [{"patternProperties": {"a": {}}}]}):
        with pytest.raises(ValueError, match="may not use"):
            occi_service.Attribute(type="object", pattern=denied)


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize(
    "definition",
    [
        {"type": "number"},
        {"type": "boolean"},
        {"type": "array"},
        {"type": "object", "pattern": {"required": ["a"]}},
        {"type": "string", "pattern": "a|b"},
        {"type": "string", "pattern": {"enum": ["a", "b"]}},
        {"type": "number", "pattern": whole_number()},
    ],
)
@pytest.mark.parametrize(
    "value", ["s3cret", ["s3cret"], {"s3cret": "s3cret"}, Bare("s3cret"), '{"s3cret": 1', 987654.321]
)
def test_errors_never_contain_the_value(definition: Any, value: Any, secret: bool) -> None:
    attribute = Attribute("", secret=secret, **definition)
    message = ""
    try:
        check("org.example.x", value, attribute)
    except ValueError as error:
        message = str(error)
    # Values that fit are not refused.
    assert "org.example.x has to be a" in message or isinstance(value, list | dict | float)
    assert "s3cret" not in message
    assert "987654" not in message


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**37])
def test_whole_numbers_have_64_bits(number: int) -> None:
    for given in (number, str(number), Bare(str(number))):
        with pytest.raises(
            ValueError, match=r"^x has to be a number; a whole one lies between -9223372036854775808 and"
        ):
            check("x", given, Attribute("", type="number"))
        with pytest.raises(ValueError, match=r"^x has to be a whole number from 0 to 9223372036854775807$"):
            check("x", given, Attribute("", type="number", pattern=whole_number()))
    assert check("x", 2**63 - 1, Attribute("", type="number", pattern=whole_number())) == 2**63 - 1


@pytest.mark.parametrize("value", [0, 3, 4, -1, 2.0, 2.5, float("nan"), float("inf"), True, "2", [], 10**30])
def test_whole_numbers_are_checked_as_by_their_schema(value: object) -> None:
    pattern = whole_number(0, 3)
    expected = jsonschema.Draft202012Validator(dict(pattern)).is_valid(value)
    definition = Attribute("", type="number", pattern=pattern)
    try:
        found = isinstance(value, int | float) and check("x", value, definition) == value
    except ValueError:
        found = False
    assert found is expected
