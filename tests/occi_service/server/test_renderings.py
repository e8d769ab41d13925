"""Round trips of documents through the renderings."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from occi_service.renderings import (
    ActionDocument,
    AttributeDocument,
    Bare,
    CategoryDocument,
    Collection,
    EntityDocument,
    Json,
    JsonPyssf,
    MalformedDocumentError,
    Message,
    Payload,
    PlainJson,
    Reference,
    Rendering,
    TextOcci,
    TextOcciHurtle,
    TextOcciPlain,
    TextPlain,
    UriList,
)
from occi_service.renderings.grammar import bare_value, parse_attributes, quote

TEXTS = [TextPlain(), TextOcciPlain(), TextOcci()]
JSONS = [Json(), PlainJson()]

# Every character but surrogates: quotes, commas, CR, LF, NUL, emoji.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text('",;=\\<>\r\n\t\0 é€😀u00', max_size=20)
name = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9\-_.]{0,20}", fullmatch=True).filter(
    lambda each: not each.startswith("occi.core")
)
term = st.from_regex(r"[a-z0-9][a-z0-9\-_.]{0,10}", fullmatch=True)
type_id = st.builds("http://{}.example.org/a,b;c=d#{}".format, term, term)
scalar = text | st.integers(-(10**37), 10**37) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
json_value = st.recursive(
    scalar | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
uri = st.builds("/{}/{}".format, term, term) | st.builds("https://{}.example.org/{}?q=1".format, term, term)
unique_types = st.lists(type_id, max_size=3, unique=True)


def links_of(values: st.SearchStrategy[Any], *, named: bool) -> st.SearchStrategy[EntityDocument]:
    shared = {
        "id": st.none() | text,
        "attributes": st.dictionaries(name, values, max_size=3),
        "title": st.none() | text,
        "target": st.builds(Reference, uri, st.none() | type_id),
    }
    if named:
        return st.builds(
            EntityDocument, kind=type_id, mixins=unique_types, source=st.none() | st.builds(Reference, uri), **shared
        )
    # In a Link field the class of kinds and mixins is omitted.
    return st.builds(
        EntityDocument,
        unclassified=st.lists(type_id, min_size=1, max_size=3, unique=True),
        source=st.none() | st.builds(Reference, uri),
        location=st.none() | uri,
        **shared,
    )


def entities_of(
    values: st.SearchStrategy[Any], links: st.SearchStrategy[EntityDocument]
) -> st.SearchStrategy[EntityDocument]:
    return st.builds(
        EntityDocument,
        kind=st.none() | type_id,
        id=st.none() | text,
        mixins=unique_types,
        attributes=st.dictionaries(name, values, max_size=5),
        title=st.none() | text,
        summary=st.none() | text,
        actions=unique_types,
        links=st.lists(links, max_size=3),
        source=st.none() | st.builds(Reference, uri, st.none() | type_id),
        target=st.none() | st.builds(Reference, uri, st.none() | type_id),
    )


text_entity = entities_of(scalar, links_of(scalar, named=False))
json_entity = entities_of(json_value, links_of(json_value, named=True))


def sent(payload: Payload) -> Message:
    """The payload as received: header fields decoded as Latin-1, as in WSGI."""
    headers = {}
    for field, value in payload.headers:
        assert not set("\r\n\0") & set(field + value)
        headers[field.lower()] = value.encode("latin-1").decode()
    return Message(headers, payload.body)


def parsed(entity: EntityDocument) -> EntityDocument:
    """Replace unquoted values by their parsed values."""
    for each in (entity, *entity.links):
        each.attributes = {
            key: bare_value(value) if isinstance(value, Bare) else value for key, value in each.attributes.items()
        }
    return entity


def same(value: Any) -> Any:
    """Return a representation that distinguishes types: True is not 1, nor 1 1.0."""
    return repr(value)


@pytest.mark.parametrize("rendering", TEXTS)
@given(entity=text_entity)
@settings(max_examples=40, deadline=None)
def test_an_entity_in_text(rendering: Rendering, entity: EntityDocument) -> None:
    read = parsed(rendering.read_entity(sent(rendering.write_entity(entity))))
    assert same(read) == same(entity)


@pytest.mark.parametrize("rendering", JSONS)
@given(entity=json_entity)
@settings(max_examples=40, deadline=None)
def test_an_entity_in_json(rendering: Rendering, entity: EntityDocument) -> None:
    assert same(rendering.read_entity(sent(rendering.write_entity(entity)))) == same(entity)


@given(entity=entities_of(json_value, links_of(json_value, named=True)))
@settings(max_examples=80, deadline=None)
def test_an_entity_in_pyssfs_json(entity: EntityDocument) -> None:
    for reference in (entity.source, entity.target, *(link.target for link in entity.links)):
        if reference is not None:
            reference.kind = None
    if entity.is_link:
        entity.links = []
    rendering = JsonPyssf()
    assert same(rendering.read_entity(sent(rendering.write_entity(entity)))) == same(entity)
    collection = Collection([entity], ["/elsewhere"])
    assert same(rendering.read_collection(sent(rendering.write_collection(collection)))) == same(collection)


@given(value=text)
@settings(max_examples=200, deadline=None)
@example("100% a,b=c%2C")
def test_hurtles_text_never_splits_and_decodes_to_the_same(value: str) -> None:
    from urllib.parse import unquote

    header = dict(TextOcciHurtle().write_entity(EntityDocument(attributes={"a": value})).headers)["X-OCCI-Attribute"]
    ((_, read),) = parse_attributes(header.encode("latin-1").decode())
    assert len(header.split(",")) == 1
    assert len(header.split("=")) == 2
    if any(each in value for each in (",", "=", "%2C", "%3D", "%25")):
        assert unquote(read) == value
    else:
        assert read == value


@pytest.mark.parametrize("kind", [EntityDocument, ActionDocument])
@given(value=scalar | st.text("%,=2C3D5a", max_size=12))
@settings(max_examples=200, deadline=None)
@example("100% a,b=c%2C")
@example("a%2Cb")
@example("a%20b")
@example("%25252C")
def test_values_shown_to_hurtles_clients_can_be_sent_back(kind: type[Any], value: Any) -> None:
    rendering = TextOcciHurtle()
    if kind is EntityDocument:
        read = parsed(rendering.read_entity(sent(rendering.write_entity(EntityDocument(attributes={"a": value})))))
        assert same(read.attributes) == same({"a": value})
    else:
        written = rendering.write_action(ActionDocument("http://example.org/#go", {"a": value}))
        (shown,) = rendering.read_action(sent(written)).attributes.values()
        assert same(bare_value(shown) if isinstance(shown, Bare) else shown) == same(value)


@pytest.mark.parametrize("value", ["a%20b", "http://example.org/a%20b?c", "50%", "%zz", "%ff", "%2c"])
def test_other_percent_signs_are_literal(value: str) -> None:
    message = Message({"x-occi-attribute": f"a={quote(value)}"})
    assert TextOcciHurtle().read_entity(message).attributes == {"a": value}


@pytest.mark.parametrize("rendering", [*TEXTS, UriList()])
@given(locations=st.lists(uri, max_size=20))
@settings(max_examples=40, deadline=None)
def test_locations(rendering: Rendering, locations: list[str]) -> None:
    collection = Collection(locations=locations)
    assert rendering.read_collection(sent(rendering.write_collection(collection))) == collection


@pytest.mark.parametrize("rendering", JSONS)
@given(entities=st.lists(json_entity, max_size=3), locations=st.lists(uri, max_size=3))
@settings(max_examples=40, deadline=None)
def test_a_collection_in_json(rendering: Rendering, entities: list[EntityDocument], locations: list[str]) -> None:
    for entity in entities:
        if entity.is_link:
            entity.links = []
    read = rendering.read_collection(sent(rendering.write_collection(Collection(entities, locations))))
    in_order = [each for each in entities if not each.is_link] + [each for each in entities if each.is_link]
    assert same(read) == same(Collection(in_order, locations))


@pytest.mark.parametrize(
    ("rendering", "values"), [*((each, scalar) for each in TEXTS), *((each, json_value) for each in JSONS)]
)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_an_action(rendering: Rendering, values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    action = data.draw(st.builds(ActionDocument, type_id, st.dictionaries(name, values, max_size=4)))
    read = rendering.read_action(sent(rendering.write_action(action)))
    read.attributes = {
        key: bare_value(value) if isinstance(value, Bare) else value for key, value in read.attributes.items()
    }
    assert same(read) == same(action)


SCHEME = st.builds("http://{}.example.org/a,b#".format, term)


@pytest.mark.parametrize("rendering", TEXTS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_categories_in_text(rendering: Rendering, data: st.DataObject) -> None:
    definition = st.builds(AttributeDocument, mutable=st.booleans(), required=st.booleans())
    category = st.builds(
        CategoryDocument,
        scheme=SCHEME,
        term=term,
        category_class=st.sampled_from(["kind", "mixin", "action", None]),
        title=text,
        attributes=st.dictionaries(name, definition, max_size=4),
        related=st.lists(type_id, max_size=1),
        actions=unique_types,
        location=st.none() | uri,
    )
    categories = data.draw(st.lists(category, max_size=4))
    assert rendering.read_categories(sent(rendering.write_categories(categories))) == categories


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_categories_in_pyssfs_json(data: st.DataObject) -> None:
    definition = st.builds(AttributeDocument, mutable=st.booleans(), required=st.booleans()).filter(
        # pyssf uses the same word for both.
        lambda each: each.mutable or not each.required
    )
    category = st.builds(
        CategoryDocument,
        scheme=SCHEME,
        term=term,
        title=text,
        attributes=st.dictionaries(name, definition, max_size=4),
        related=unique_types,
        actions=unique_types,
        location=st.none() | uri,
    )
    categories = data.draw(st.lists(category, max_size=4))
    rendering = JsonPyssf()
    assert rendering.read_categories(sent(rendering.write_categories(categories))) == categories


@pytest.mark.parametrize("rendering", JSONS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_categories_in_json(rendering: Rendering, data: st.DataObject) -> None:
    definition = st.builds(
        AttributeDocument,
        mutable=st.booleans(),
        required=st.booleans(),
        type=st.sampled_from(["string", "number", "object"]),
        pattern=json_value,
        default=json_value,
        description=text,
    )
    shared: dict[str, Any] = {
        "scheme": SCHEME,
        "term": term,
        "title": text,
        "attributes": st.dictionaries(name, definition, max_size=3),
    }
    placed = {**shared, "actions": unique_types, "location": st.none() | uri}
    kinds = st.builds(CategoryDocument, category_class=st.just("kind"), related=st.lists(type_id, max_size=1), **placed)
    mixins = st.builds(
        CategoryDocument, category_class=st.just("mixin"), related=unique_types, applies=unique_types, **placed
    )
    actions = st.builds(CategoryDocument, category_class=st.just("action"), **shared)
    categories: list[CategoryDocument] = []
    for each in (kinds, mixins, actions):
        categories += data.draw(st.lists(each, max_size=2))
    assert same(rendering.read_categories(sent(rendering.write_categories(categories)))) == same(categories)


@given(
    values=st.lists(st.tuples(name, text), max_size=8, unique_by=lambda each: each[0]),
    space=st.sampled_from(["", " ", "\t  "]),
)
@settings(max_examples=150, deadline=None)
def test_quoted_strings_split_only_at_separators(values: list[tuple[str, str]], space: str) -> None:
    field = f"{space},{space}".join([f"{key}{space}={space}{quote(value)}" for key, value in values])
    assert parse_attributes(space + field + space + ",") == values


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (r'a="\"\\"', '"\\'),
        (r'a="\n\t\u0041\ud83d\ude00"', "\n\tA😀"),
        (r'a="\d"', r"\d"),
        ("a=true", Bare("true")),
        ("a=x=y", Bare("x=y")),
        ("a=http://h:1/p?q#f", Bare("http://h:1/p?q#f")),
    ],
)
def test_unambiguous_deviations_are_accepted(field: str, value: str) -> None:
    ((_, read),) = parse_attributes(field)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "field",
    [
        'a="',
        'a="b" c="d"',
        "a",
        "=b",
        "a=",
        'a="\r"',
        'a="\n"',
        'a="\0"',
        'a="\x1b"',
        "a=b;c=d",
        'a=b"c',
        r'a="\ud800"',
        'a="b\\',
        "é=1",
    ],
)
def test_ambiguous_input_is_refused(field: str) -> None:
    with pytest.raises(MalformedDocumentError) as caught:
        parse_attributes(field)
    assert caught.value.where.startswith("X-OCCI-Attribute, character ")


def test_names_outside_the_grammar_are_mapped() -> None:
    hostile = 'x="y"\r\nSet-Cookie: a'
    entity = EntityDocument(attributes={hostile: 1, "_private": 2, "ü": 3})
    for rendering in TEXTS:
        read = rendering.read_entity(sent(rendering.write_entity(entity)))
        assert set(read.attributes) == {"output.x__y___Set-Cookie__a", "output._private", "output._"}
    assert set(string.ascii_letters) >= set("output")
