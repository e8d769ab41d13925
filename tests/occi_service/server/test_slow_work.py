"""No slow work happens inside a request's transaction, and late refusals roll it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from occi.backend import ActionBackend
from occi.core_model import Action, Entity

from archelon_core.transactions import forbid_in_transaction, in_transaction
from occi_service import attributes
from occi_service.server.backends import ReadOnlyActions, call_first
from tests.occi_service.registry.registries import sql_registry
from tests.occi_service.server.calls import JSON, Answer, call, path_of
from tests.occi_service.server.shop import BOX_TYPE, LABEL_TYPE, OPEN, OPEN_TYPE, SCHEME, Shop

ACCEPTS = ("text/plain", "text/occi", JSON, "text/html", "text/uri-list", "application/json")
TENANT = {"X-Tenant": "t-1"}
LONG = "a" * 5000


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Shop]:
    """The shop on a database."""
    registry, database = sql_registry(f"sqlite:///{tmp_path}/state.db")
    yield Shop(registry)
    database.close()


@pytest.fixture
def matched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each pattern that was matched, whether a transaction was open."""
    seen: list[bool] = []
    real = attributes._matches

    def watched(value: Any, pattern: Any) -> bool:
        if isinstance(pattern, dict) or len(value) > 1000:
            seen.append(in_transaction())
        return real(value, pattern)

    monkeypatch.setattr(attributes, "_matches", watched)
    return seen


def ask(shop: Shop, method: str, path: str, document: Any = None, **fields: str) -> Answer:
    """Send a request in JSON."""
    headers = {**TENANT, "Content-Type": JSON, "Accept": JSON} | {
        name.replace("_", "-"): value for name, value in fields.items()
    }
    path, _, query = path.partition("?")
    body = b"" if document is None else json.dumps(document).encode()
    return call(shop, method, path, headers, body, query=query)


def box(**values: Any) -> dict[str, Any]:
    return {"kind": BOX_TYPE, "attributes": {f"shop.{name}": value for name, value in values.items()}}


@pytest.mark.parametrize("accept", ACCEPTS)
def test_writes_are_parsed_before_and_rendered_after_the_transaction(stored: Shop, accept: str) -> None:
    made = ask(stored, "POST", "/box/", box(name="a", tags=["x"]), Accept=accept)
    assert made.status == 201, made.text
    path = path_of(made)
    requests = [
        ("PUT", "/box/chosen", box(name="b")),
        ("PUT", path, box(name="c")),
        ("POST", path, {"attributes": {"shop.note": "n"}}),
        ("POST", f"{path}?action=open", {"action": OPEN_TYPE, "attributes": {"key": "k"}}),
        ("POST", "/box/?action=open", {"action": OPEN_TYPE, "attributes": {"key": "k"}}),
        ("POST", "/box/", {"resources": [box(name="d"), box(name="e")]}),
        ("POST", "/label/", {"resources": [path]}),
        ("PUT", "/label/", {"resources": ["/box/chosen"]}),
        ("DELETE", "/label/", {"resources": ["/box/chosen"]}),
        ("POST", "/-/", {"mixins": [{"term": "mine", "scheme": "http://t.example.org/#", "location": "/mine/"}]}),
        ("DELETE", "/-/", {"mixins": [{"term": "mine", "scheme": "http://t.example.org/#"}]}),
        ("DELETE", path, None),
        ("DELETE", "/box/", None),
    ]
    for method, where, document in requests:
        answer = ask(stored, method, where, document, Accept=accept)
        # A rendering that cannot show the entity is refused, and does not break the transaction.
        assert answer.status in (200, 201, 400, 406), (method, where, answer.text)


@pytest.mark.parametrize("content_type", ["text/plain", "text/occi"])
def test_text_is_parsed_before_the_transaction(stored: Shop, content_type: str) -> None:
    fields = {"Category": f'box; scheme="{SCHEME}"; class="kind"', "X-OCCI-Attribute": 'shop.name="a"'}
    body = b""
    if content_type == "text/plain":
        body = "\n".join(f"{name}: {value}" for name, value in fields.items()).encode()
        fields = {}
    for method, path in (("POST", "/box/"), ("PUT", "/box/one"), ("PUT", "/box/one"), ("POST", "/box/one")):
        answer = call(stored, method, path, {**TENANT, "Content-Type": content_type, **fields}, body)
        assert answer.status in (200, 201), answer.text


def test_patterns_and_schemas_are_matched_outside_the_transaction(stored: Shop, matched: list[bool]) -> None:
    path = path_of(ask(stored, "POST", "/box/", box(name="a", tags=["x"], labels={"a": 1})))
    assert ask(stored, "PUT", path, box(name="a", tags=["y"])).status == 200
    assert ask(stored, "POST", path, {"attributes": {"shop.tags": ["z"]}}).status == 200
    refused = ask(stored, "POST", path, {"attributes": {"shop.tags": [1]}})
    assert refused.status == 400
    assert "shop.tags" in refused.text
    # RE2 matches in linear time, but the text may have a megabyte.
    assert ask(stored, "POST", path, {"attributes": {"shop.slow": LONG + "b"}}).status == 200
    assert ask(stored, "POST", path, {"attributes": {"shop.slow": LONG}}).status == 400
    assert ask(stored, "GET", path).json["attributes"]["shop.tags"] == ["z"]
    several = {"resources": [box(name="p", tags=["1"]), box(name="q", tags=["2"])]}
    assert ask(stored, "POST", "/box/", several).status == 200
    assert len(matched) == 7
    assert not any(matched)


def test_if_match_is_compared_outside_and_checked_inside_the_transaction(stored: Shop) -> None:
    path = path_of(ask(stored, "POST", "/box/", box(name="a")))
    tag = ask(stored, "GET", path).header("ETag")
    assert ask(stored, "POST", path, {"attributes": {"shop.note": "1"}}, If_Match=tag).status == 200
    assert ask(stored, "POST", path, {"attributes": {"shop.note": "2"}}, If_Match=tag).status == 412
    assert ask(stored, "DELETE", path, If_Match=tag).status == 412
    tag = ask(stored, "GET", path).header("ETag")
    assert ask(stored, "PUT", path, box(name="b"), If_Match=tag).status == 200


def test_a_write_between_comparison_and_transaction_is_detected(stored: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_of(ask(stored, "POST", "/box/", box(name="a")))
    tag = ask(stored, "GET", path).header("ETag")
    from occi_service.server.request import Exchange

    real, times = Exchange.etags_of, []

    def raced(self: Exchange, entity: Entity) -> list[str]:
        tags = real(self, entity)
        times.append(1)
        if len(times) == 1:
            assert ask(stored, "POST", path, {"attributes": {"shop.note": "first"}}).status == 200
        return tags

    monkeypatch.setattr(Exchange, "etags_of", raced)
    assert ask(stored, "POST", path, {"attributes": {"shop.note": "second"}}, If_Match=tag).status == 412
    assert len(times) == 2
    assert ask(stored, "GET", path).json["attributes"]["shop.note"] == "first"


@pytest.mark.parametrize("field", ["Category", "Link", "X_OCCI_Location", "X_OCCI_Attribute"])
def test_an_undecodable_field_is_refused_before_the_transaction(stored: Shop, field: str) -> None:
    path = path_of(ask(stored, "POST", "/box/", box(name="a")))
    broken = {field: "\xff\xfe"}
    for method, where, document in (
        ("POST", "/box/", box(name="b")),
        ("POST", path, {"attributes": {"shop.note": "n"}}),
        ("POST", f"{path}?action=open", {"action": OPEN_TYPE, "attributes": {"key": "k"}}),
        ("PUT", path, box(name="c")),
        ("POST", "/label/", {"resources": [path]}),
        ("POST", "/-/", {"mixins": []}),
    ):
        assert ask(stored, method, where, document, **broken).status == 400


def test_a_response_that_does_not_fit_rolls_back_the_write(stored: Shop) -> None:
    path = path_of(ask(stored, "POST", "/box/", box(name="a")))
    for note in ("n" * 20_000, "\N{SNOWMAN}" * 10_000):
        answer = ask(stored, "POST", path, {"attributes": {"shop.note": note}}, Accept="text/occi")
        assert answer.status == 406
        assert "shop.note" not in ask(stored, "GET", path).json["attributes"]


class Asks(ReadOnlyActions):
    """Reports whether a transaction is open; could be slow."""

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> dict[str, Any]:
        forbid_in_transaction("this")
        return {"shop.note": str(in_transaction())}


class Computes(ActionBackend):
    """Computes before it stores; the input of the computation changes once in the meantime."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        assert in_transaction()

        def compute() -> str:
            forbid_in_transaction("this")
            self.of.append(attributes["key"])
            return attributes["key"] + " computed"

        entity.attributes["shop.note"] = call_first(extras, "it", compute, of=bool(self.of))


def test_a_read_only_action_has_no_transaction(stored: Shop) -> None:
    stored.register_backend(OPEN, Asks())
    path = path_of(ask(stored, "POST", "/box/", box(name="a")))
    answer = ask(stored, "POST", f"{path}?action=open", {"action": OPEN_TYPE, "attributes": {"key": "k"}})
    assert answer.status == 200
    assert answer.json["attributes"]["shop.note"] == "False"
    assert "shop.note" not in ask(stored, "GET", path).json["attributes"]
    assert ask(stored, "POST", "/box/none?action=open", {"action": OPEN_TYPE}).status == 404
    assert ask(stored, "POST", f"{path}?action=open", {"action": LABEL_TYPE}).status == 400


def test_call_first_repeats_the_call_if_its_input_changed(stored: Shop) -> None:
    backend = Computes()
    stored.register_backend(OPEN, backend)
    path = path_of(ask(stored, "POST", "/box/", box(name="a")))
    answer = ask(stored, "POST", f"{path}?action=open", {"action": OPEN_TYPE, "attributes": {"key": "k"}})
    assert answer.json["attributes"]["shop.note"] == "k computed"
    assert backend.of == ["k", "k"]
