"""Substitution of values in templates: results, refusals, and that no value becomes structure."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archelon_core.documents.reading import read_text
from archelon_core.documents.tree import plain
from bundles import BundleError, Scope, Template, to_text

TEMPLATE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: "web-${instance}", labels: {tenant: "${tenant}"}}
data:
  motto: ${motto}
  script: |
    echo "${motto}" > /srv/$${HOME}/motto
    curl ${store:endpoint}
list: [a, "${motto}", {deep: ["${tenant}"]}]
---
spec:
  replicas: ${replicas}
"""


def shape(value: object) -> object:
    """Keys and containers, without the leaves."""
    if isinstance(value, dict):
        return {key: shape(below) for key, below in value.items()}
    if isinstance(value, list):
        return [shape(below) for below in value]
    return "leaf"


def scope(**parameters: object) -> Scope:
    given_values: dict[str, object] = {"instance": "i1", "tenant": "t", "motto": "hello", "replicas": 2}
    return Scope({**given_values, **parameters}, {"store": {"endpoint": "http://store/"}})  # type: ignore[dict-item]


def rendered(text: str, **parameters: object) -> object:
    return Template.parse(text, file="t.yaml").render(Scope(parameters))[0]  # type: ignore[arg-type]


def refused(text: str, file: str = "t.yaml", **parameters: object) -> list[str]:
    with pytest.raises(BundleError) as error:
        Template.parse(text, file=file).render(Scope(parameters))  # type: ignore[arg-type]
    return str(error.value).splitlines()


def test_references_become_values() -> None:
    first, second = Template.parse(TEMPLATE, file="t.yaml").render(scope())
    assert first == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "web-i1", "labels": {"tenant": "t"}},
        "data": {"motto": "hello", "script": 'echo "hello" > /srv/${HOME}/motto\ncurl http://store/\n'},
        "list": ["a", "hello", {"deep": ["t"]}],
    }
    assert second == {"spec": {"replicas": 2}}


@pytest.mark.parametrize("value", ["x", "2", "", "yes", 2, 2.5, True, False, None, 0])
def test_a_leaf_that_is_one_reference_takes_the_values_own_type(value: object) -> None:
    (result,) = [rendered("a: ${v}", v=value)]
    assert result == {"a": value}
    assert type(result["a"]) is type(value)


@pytest.mark.parametrize(("value", "text"), [("x", "x"), (2, "2"), (2.5, "2.5"), (True, "true"), (None, "null")])
def test_inside_other_text_a_value_becomes_text(value: object, text: str) -> None:
    assert rendered("a: v=${v}.", v=value) == {"a": f"v={text}."}


def test_references_inside_values_are_not_substituted() -> None:
    assert rendered("a: ${v}\nb: x${v}", v="${w} $${", w="no") == {"a": "${w} $${", "b": "x${w} $${"}


def test_escapes_and_lone_dollars_stay() -> None:
    assert rendered("a: $${x} $x $ {x} $(x) $$ ${x}", x="1") == {"a": "${x} $x $ {x} $(x) $$ 1"}
    assert rendered("a: $${", x="1") == {"a": "${"}
    assert rendered("$${x}: 1") == {"$${x}": 1}


def test_references_are_listed_in_order_with_their_positions() -> None:
    template = Template.parse("a: ${x}\nb:\n  - ${ node:y.z }-${x}\n---\n${w}\n", file="t.yaml")
    assert [(found.node, found.name, found.document, found.mark.line) for found in template.references] == [
        (None, "x", 0, 1),
        ("node", "y.z", 0, 3),
        (None, "x", 0, 3),
        (None, "w", 1, 5),
    ]


def test_a_part_is_a_template_that_keeps_its_position() -> None:
    whole = Template.parse("nodes:\n  web: {url: '${store:url}', size: '${size}'}\n  store: {size: 1}\n", file="t.yaml")
    web = whole.part(("nodes", "web"))
    assert [found.text for found in web.references] == ["store:url", "size"]
    assert whole.part(("nodes", "store")).references == ()
    assert web.render(Scope({"size": 2}, {"store": {"url": "u"}})) == [{"url": "u", "size": 2}]
    with pytest.raises(BundleError, match=r"t\.yaml:2:14: \$\.nodes\.web\.url: \$\{store:url\}: no node store"):
        web.render(Scope({"size": 2}))
    with pytest.raises(KeyError, match=r"nodes\.nope"):
        whole.part(("nodes", "nope"))


def test_values_are_in_no_representation() -> None:
    assert "hunter2" not in repr(Scope({"a": "hunter2"}, {"b": {"c": "hunter2"}}))


@pytest.mark.timeout(60)
def test_the_number_of_unknown_names_is_limited() -> None:
    text = "[" + "'${x}${y}'," * 40_000 + "]"
    assert len(refused(text, **{f"name{number}": 1 for number in range(500)})) == 100


def test_all_unknown_names_are_reported_with_line_and_known_names() -> None:
    assert refused("a: ${motto}\nb:\n  c: x${moto}\nd: ${store:port}\n", motto="m", size=1) == [
        "t.yaml:3:6: $.b.c: ${moto} is unknown; expected one of motto, size",
        "t.yaml:4:4: $.d: ${store:port}: no node store; expected one of none",
    ]
    with pytest.raises(BundleError, match=r"\$\{store:port\}: no such output; store has endpoint"):
        Template.parse("${store:port}", file="t.yaml").render(scope())


@pytest.mark.parametrize("bad", ["${", "${}", "${a b}", "${a:b:c}", "${-a}", "a ${b", "${a\n}x${"])
def test_an_invalid_reference_is_refused_with_the_syntax(bad: str) -> None:
    with pytest.raises(BundleError, match=r"is not a reference; write \$\{name\} or \$\{node:name\}, or \$\$\{ for"):
        Template.of_value({"k": bad}, file="t.yaml")


def test_a_reference_in_a_key_is_refused() -> None:
    assert refused("a:\n  ${b}: 1") == [
        "t.yaml:2:3: $.a['${b}']: a reference in a key; write the key out; only values are substituted"
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["secret"], "is a list, and a value fills one leaf"),
        ({"secret": 1}, "is a map, and a value fills one leaf"),
        (float("nan"), "is not a finite number"),
        ("secret\ud800", "contains half of a surrogate pair"),
        (b"secret", "is bytes"),
    ],
)
def test_unfit_values_are_refused_and_not_repeated(value: object, expected: str) -> None:
    (line,) = refused("a: 1\nb: ${v}", v=value)
    assert line.startswith("t.yaml:2:4: $.b: ${v} " + expected)
    assert "secret" not in line


def test_a_value_cannot_expand_a_template_without_limit() -> None:
    (line,) = refused("a: ${v}${v}", v="x" * 200_000)
    assert line == "t.yaml:1:4: longer than 262144 characters with its values; shorten the value or the template"
    (line,) = refused("".join(f"a{number}: ${{v}}\n" for number in range(30)), v="x" * 200_000)
    assert "longer than 4194304 characters" in line


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
    | st.text(" \n\t-:{}[],&*!|>'\"%@`#?$a0~<=")
)


@given(scalars, scalars, scalars, scalars)
@example("\n- a\n---\nb: c", "}, {", "a: b\n", "*alias")
@example("${motto}", "$${", '"', "'")
@example("\u2028", "\x85", "\x7f", "\ufeff")
def test_no_value_changes_the_structure(instance: object, tenant: object, motto: object, replicas: object) -> None:
    template = Template.parse(TEMPLATE, file="t.yaml")
    before = [plain(document) for document in template.documents]
    after = template.render(scope(instance=instance, tenant=tenant, motto=motto, replicas=replicas))
    assert [shape(document) for document in after] == [shape(document) for document in before]
    # And the text for a platform parses to these documents, with the values in their places.
    again = [plain(document) for document in read_text(to_text(after), file="again.yaml")]
    assert again == after
    assert again[0]["data"]["motto"] == motto  # type: ignore[index,call-overload]
    assert again[0]["metadata"]["name"] == f"web-{_text(instance)}"  # type: ignore[index,call-overload]


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


@pytest.mark.parametrize("text", ["${a}" * 20_000, "x ${a}"])
def test_a_value_that_is_referred_to_often_is_counted_before_joining(text: str) -> None:
    """A tenant's value of a mebibyte in a script that names it a thousand times would be a gibibyte."""
    template = Template.of_value({"script": text})
    value = "v" * 1024 * 1024
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="longer than 262144 characters with its values"):
            template.render(Scope({"a": value}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(value)


def test_all_leaves_together_have_a_limit_too() -> None:
    template = Template.of_value({"scripts": ["${a}", "${a} "] * 10})
    assert template.render(Scope({"a": "v" * 100}), total_limit=2010)
    with pytest.raises(BundleError, match="longer than 2009 characters with its values"):
        template.render(Scope({"a": "v" * 100}), total_limit=2009)
