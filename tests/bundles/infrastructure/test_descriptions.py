"""Parsing of descriptions: Occopus' own, ours, and errors with place and remedy."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.infrastructure.description import Description
from bundles.infrastructure.graph import before, cycle, ordered
from bundles.infrastructure.parsing import parse
from bundles.infrastructure.rendering import (
    DescriptionError,
    Place,
    RenderedItem,
    plain,
    read_document,
    references,
    substitutable,
    substitute,
)
from cloud_controller.infrastructure.resolving import checked_parameters
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.nodes import ProcessNodes

from ...cloud_controller.infrastructure.descriptions import CQUEUE, WORDPRESS, WORDPRESS_FILES, sleepers


@pytest.fixture
def types(tmp_path: Path) -> dict[str, ProcessNodes]:
    return {"process": ProcessNodes(Launcher(tmp_path))}


def test_wordpress_as_published(types: dict[str, ProcessNodes]) -> None:
    found = parse(WORDPRESS, files=WORDPRESS_FILES, types=types)
    assert found.name == "ec2_chef_wordpress_infra"
    assert found.order() == ["mysql_server", "wordpress"]
    assert found.nodes["wordpress"].needs == {"mysql_server"}
    assert found.nodes["mysql_server"].implementation.type == "process"
    assert found.nodes["mysql_server"].variables["mysql_database_name"] == "blog"
    [mapped] = found.nodes["wordpress"].mappings
    assert (mapped.source, mapped.attribute, mapped.name) == ("mysql_server", "address", "wordpress.db.host")
    assert found.nodes["mysql_server"].implementation.health.timeout == 600.0


def test_cqueue_as_published(types: dict[str, ProcessNodes]) -> None:
    found = parse(CQUEUE, files={}, types=types)
    worker = found.nodes["cqueue-worker"]
    assert (worker.minimum, worker.maximum, worker.needs) == (1, 10, {"cqueue-master"})


GOOD = """
infra_name: small
parameters:
  size: {type: number, default: 1, minimum: 1, maximum: 3}
nodes:
  - &A {name: a, type: t}
  - &B {name: b, type: t, variables: {colour: red}}
dependencies:
  - [*B, *A]
'node_def:t':
  - resource: {type: process, command: [sleep, '9'], ports: [http]}
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("infra_name: small", "infra_nam: small", "2:12: the description has no 'infra_nam'; did you mean 'infra_name'?"),
        ("name: a, type: t", "name: a", "template:6:5: the node has no 'type'; add `type: …`"),
        ("name: a, type: t", "name: a, type: x", "template:6:24: no definition 'node_def:x'; add it; known are t"),
        (
            "name: a, type: t",
            "name: a, type: t, filter: {type: nova}",
            "template:6:35: no implementation of 't' passes the filter; change the filter; known types are process",
        ),
        (
            "{type: process, command: [sleep, '9'], ports: [http]}",
            "{type: nova, image_id: x}",
            "template:11:5: 't' has implementations of type nova only, which this platform does not support; "
            "add one of type process",
        ),
        (
            "[*B, *A]",
            "[*B, *A]\n  - [a, b]",
            "template:9:3: the dependencies form a cycle: a → b → a; remove one of them",
        ),
        ("[*B, *A]", "[*A, *A]", "template:9:3: the dependencies form a cycle: a → a; remove one of them"),
        ("[*B, *A]", "[*B, c]", "template:9:10: unknown node 'c'; expected one of a, b"),
        ("[*B, *A]", "[*B]", "template:9:5: a dependency joins two nodes; write [dependent, needed]"),
        ("name: b", "name: a", "template:7:5: a second node is named 'a'; give it another name"),
        ("[sleep, '9']", "sleep 9", "template:11:40: 'command' must be a list of arguments; write [program, "),
        ("[sleep, '9']", "[sleep, [9]]", "template:11:48: an argument must be a text or a number; put it in quotes"),
        ("'9'", "'${parameters.siz}'", "template:11:48: 'parameters.siz' names nothing; choose from size"),
        ("'9'", "'${size}'", "template:11:48: '${size}' is not a reference; write ${parameters.name}, "),
        ("'9'", "'{{ cmd(\"id\") }}'", "template:11:48: '{{ cmd(\"id\") }}' is not a reference; write ${parameters.name}, "),
        ("'9'", "'${nodes.a.port}'", "template:11:48: 'a' refers to 'a', which it does not depend on; write ${self.…}"),
        ("'9'", "'${nodes.b.port}'", "11:48: 'a' refers to 'b', which it does not depend on; add the dependency [a, b]"),
        ("'9'", "'${self.colour}'", "template:11:48: 'self.colour' names no attribute; choose from address, "),
        ("ports: [http]", "ports: {http: 70000}", "11:68: a port must be a number from 1024 to 65535, or 0 for any; correct it"),
        ("ports: [http]", "ports: {http: 443}", "11:68: port 443 is a system port; choose one from 1024 on, or 0 for any"),
        ("ports: [http]", "limits: {memory: lots}", "11:71: 'memory' must be a whole number, 1 or more"),
        ("ports: [http]", "image: x", "template:11:61: the resource 'process' has no 'image'; "),
        ("{name: a, type: t}", "{name: a, type: t, scaling: {min: 3, max: 2}}", "6:36: 3 to 2 is not a range; 1 ≤ "),
        ("{name: a, type: t}", "{name: a, name: b, type: t}", "6:18: $.nodes[0].name: the key is given twice, first on line 6; "),
        ("'9'", "!!python/name:os x", "11:48: $['node_def:t'][0].resource.command[1]: the tag !!python/name:os makes an object"),
        ("'9'", "!text_import {url: 'file:///etc/passwd'}", "11:48: '/etc/passwd' is outside the bundle; put the file into"),
        ("'9'", "!text_import {url: 'http://x/'}", "template:11:48: !text_import needs a file; "),
        ("ports: [http]", "grace: 7200", "11:61: 'grace' must be a number of seconds from 0.1 to 120"),
        ("type: t}", "type: t, scaling: {max: 1000}}", "template:6:3: more than 1000 instances are possible"),
        ("ports: [http]}", "ports: [http]}\n    health_check: {interval: 0.001}", "'interval' must be a number of seconds"),
        ("nodes:", "nodes: [", "this is not YAML: "),
    ],
)  # fmt: skip
def test_errors_contain_place_and_remedy(types: dict[str, ProcessNodes], old: str, new: str, problem: str) -> None:
    parse(GOOD, files={}, types=types)
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(DescriptionError) as refused:
        parse(text, files={}, types=types)
    assert problem in str(refused.value)


def test_errors_in_a_file_name_that_file(types: dict[str, ProcessNodes]) -> None:
    nodes = "'node_def:t':\n  - resource: {type: process}\n"
    text = GOOD.partition("'node_def")[0]
    with pytest.raises(
        DescriptionError, match=r"nodes/node_definitions.yaml:2:15: a process needs exactly one command"
    ):
        parse(text, files={"nodes/node_definitions.yaml": nodes}, types=types)


#: Every line contains the line before twice: a million values in some hundred bytes.
LAUGHS = "b0: &b0 [x, x]\n" + "".join(f"b{n}: &b{n} [*b{n - 1}, *b{n - 1}]\n" for n in range(1, 20))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &a [*a]", r"t:1:8: \$.a\[0\]: undefined alias: \*a has no earlier definition"),
        ("[" * 60 + "]" * 60, "deeper than 50"),
        (LAUGHS, "more than 20000 values"),
        ("x" * (1 << 20) + "x", "larger than"),
        ("<<: {a: 1}", "merge keys"),
        ("[a]: b", "a key is a list or a mapping; use text for keys"),
        ("", "empty"),
        ("a: \x00", "t:1:4: .*not YAML: a control character"),
        ("a: 1\n---\nb: 1", "t:3:1: a second document"),
        ("%TAG !a! tag:a,2000:\n--- a", "%TAG"),
    ],
)  # fmt: skip
def test_hostile_yaml_is_rejected(text: str, problem: str) -> None:
    with pytest.raises(DescriptionError, match=problem):
        read_document("t", text, {})


#: Input that takes long to parse or check without limits; each is smaller than the maximum request body.
_HEAD = "infra_name: x\n'node_def:t':\n- resource: {type: process, command: [a]}\n"
EXPENSIVE = {
    "one line again and again": (_HEAD + "nodes:\n" + "- {name: a, type: t}\n" * 40_000, "more than 20000 values"),
    "a number to base 60, which is text": ("infra_name: 1" + ":1" * 400_000, "the description has no 'nodes'"),
    "digits": ("infra_name: " + "1" * 400_000, "the number needs more than 64 bits"),
    "braces never closed": (
        _HEAD + "nodes: [{name: a, type: t}]\noutputs: {a: {value: '" + "{{" * 400_000 + "'}}",
        "is not a reference",
    ),
    "as many nodes as fit": (_HEAD + "nodes:\n" + "- {name: a, type: t}\n" * 1001, "more than 1000 nodes"),
    "implementations": (
        "infra_name: x\n'node_def:t':\n" + "- resource: {type: other}\n" * 17 + "nodes: []",
        "more than 16 implementations",
    ),
    "parameters": (
        _HEAD + "nodes: [{name: a, type: t}]\nparameters:\n" + "".join(f"  p{n}: {{}}\n" for n in range(201)),
        "more than 200 parameters",
    ),
    "a pattern": (
        _HEAD + f"nodes: [{{name: a, type: t}}]\nparameters: {{p: {{pattern: {'a' * 1001}}}}}",
        "a pattern must have at most 1000",
    ),
    "references": (
        "infra_name: x\n'node_def:t':\n- resource: {type: process, command: [a, "
        + ", ".join([f"'${{self.ports.p{n}}}'" for n in range(1001)])
        + "]}\nnodes: [{name: a, type: t}]",
        "more than 1000 references",
    ),
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_expensive_descriptions_are_rejected(types: dict[str, ProcessNodes], name: str) -> None:
    text, problem = EXPENSIVE[name]
    assert len(text) < 1 << 20
    with pytest.raises(DescriptionError, match=problem) as refused:
        parse(text, files={}, types=types)
    assert len(str(refused.value)) < 3000


@pytest.mark.parametrize("tag", ["!yaml_import", "!text_import"])
def test_repeated_imports_count_each_time(types: dict[str, ProcessNodes], tag: str) -> None:
    text = f"infra_name: x\nnodes: [{', '.join([f'{tag} {{url: file://big}}'] * 100)}]"
    with pytest.raises(DescriptionError, match="larger than 1048576 bytes, including imports"):
        parse(text, files={"big": f"# {'x' * 100_000}\n{{name: a, type: t}}"}, types=types)


def test_nested_imports_count_together() -> None:
    nested = "[" * 30 + "!yaml_import {url: file://f%d}" + "]" * 30
    files = {f"f{number}": nested % (number + 1) for number in range(100)} | {"f100": "a"}
    with pytest.raises(DescriptionError, match="f0:1:1: nested deeper than 50 levels, including imports; flatten it"):
        read_document("t", nested % 0, files)
    files = {"many": f"[{'a,' * 9000}]"}
    with pytest.raises(DescriptionError, match="many:1:1: more than 20000 values, including imports"):
        read_document("t", f"[{', '.join(['!yaml_import {url: file://many}'] * 3)}]", files)


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_rejected_with_a_place(text: str) -> None:
    place = None
    try:
        plain(read_document("t", text, {}))
    except DescriptionError as problem:
        place = problem.place
    assert place is None or (place.file == "t" and place.line >= 1)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"size": "s3cret"}, "is not a number"),
        ({"size": 4}, "out of bounds"),
        ({"other": "s3cret"}, "unknown parameter 'other'"),
    ],
)
def test_a_wrong_parameter_is_named_without_its_value(
    types: dict[str, ProcessNodes], given: dict[str, str | int], problem: str
) -> None:
    description = parse(GOOD, files={}, types=types)
    with pytest.raises(DescriptionError, match=problem) as refused:
        checked_parameters(description, given)
    assert "s3cret" not in str(refused.value)
    assert checked_parameters(description, {"size": "2"}) == {"size": 2}
    assert checked_parameters(description, {}) == {"size": 1}


@given(st.text(), st.text())
def test_inserted_values_are_never_parsed_again(value: str, other: str) -> None:
    values = {"parameters.a": value, "parameters.b": other}
    tree = {"k": ["${parameters.a}", "x${parameters.a}y${parameters.b}", "$${parameters.a} \\{{ip}}"]}
    assert substitute(tree, values.get) == {"k": [value, f"x{value}y{other}", "${parameters.a} {{ip}}"]}  # type: ignore[arg-type]


def test_a_leaf_that_is_one_reference_keeps_the_type() -> None:
    assert substitute(["${parameters.n}", "${parameters.n}!"], lambda _: 5) == [5, "5!"]
    assert substitute("${parameters.b}", lambda _: True) is True
    assert substitute("x ${parameters.b}", lambda _: True) == "x true"


def test_both_reference_syntaxes_are_equivalent() -> None:
    texts = [
        "{{ip}}",
        "{{ getip(db) }}",
        "{{getip('db')}}",
        "{{getipall(db)}}",
        "{{variables.x}}",
        "{{infra_name}}",
        "{{node_id}}",
    ]
    found = [[name for name, _ in references(RenderedItem(text, Place("t", 1, 1)))] for text in texts]
    assert found == [
        ["self.address"],
        ["nodes.db.address"],
        ["nodes.db.address"],
        ["nodes.db.addresses"],
        ["variables.x"],
        ["stack.name"],
        ["self.id"],
    ]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, frozenset[str]]:
    names = [f"n{number}" for number in range(draw(st.integers(1, 8)))]
    return {name: frozenset(draw(st.lists(st.sampled_from(names), max_size=3))) for name in names}


@given(graphs())
def test_a_graph_has_an_order_or_a_cycle(graph: dict[str, frozenset[str]]) -> None:
    circle = cycle(graph)
    if circle is not None:
        assert circle[0] == circle[-1]
        assert all(needed in graph[name] for name, needed in itertools.pairwise(circle))
        return
    order = ordered(graph)
    assert sorted(order) == sorted(graph)
    for name in graph:
        assert all(order.index(needed) < order.index(name) for needed in before(graph, name))


def test_a_chain_of_a_thousand_nodes_is_parsed(types: dict[str, ProcessNodes]) -> None:
    chain = {f"n{number}": [f"n{number - 1}"] if number else [] for number in range(1000)}
    found: Description = parse(sleepers(chain), files={}, types=types)
    assert found.order() == list(chain)


PROGRAM = """import os
print(f"${os.environ['PRICE']} {{'a': 1}} {{ip}}")
print("$${x} ${parameters.size}")
"""


def _with_file(tag: str) -> str:
    return GOOD.replace("ports: [http]", f"files: {{a.py: !{tag} {{url: file://a.py}}}}")


def test_an_imported_text_is_passed_on_as_it_is(types: dict[str, ProcessNodes]) -> None:
    found = parse(_with_file("text_import"), files={"a.py": PROGRAM}, types=types)
    resource = found.nodes["a"].implementation.resource
    assert [name for name, _ in references(resource)] == []
    assert plain(resource)["files"] == {"a.py": PROGRAM}  # type: ignore[index,call-overload]
    assert substitute(substitutable(resource), lambda _: "X")["files"] == {"a.py": PROGRAM}  # type: ignore[index,call-overload]


@given(st.text(st.sampled_from("${}\\{ab.(")) | st.text())
def test_any_imported_text_is_passed_on_as_it_is(text: str) -> None:
    item = RenderedItem(text, Place("t", 1, 1), file="f", verbatim=True)
    assert substitute(substitutable(item), lambda _: "X") == text


def test_an_imported_template_is_filled_in(types: dict[str, ProcessNodes]) -> None:
    text = "a\n  size=${parameters.size} \\{{ip}}\n"
    found = parse(_with_file("template_import"), files={"a.py": text}, types=types)
    resource = found.nodes["a"].implementation.resource
    assert [(name, str(place)) for name, place in references(resource) if place.file == "a.py"] == [
        ("parameters.size", "a.py:2:8")
    ]
    assert substitute(substitutable(resource), lambda _: 3)["files"] == {"a.py": "a\n  size=3 {{ip}}\n"}  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PROGRAM, "a.py:2:9: \"${os.environ['PRICE']}\" is not a reference; "),
        ("a\n\n ${parameters.sise}", "a.py:3:2: 'parameters.sise' names nothing; choose from size"),
        ("${parameters.size}\n${nodes.b.port}", "a.py:2:1: 'a' refers to 'b', which it does not depend on; "),
    ],
)
def test_an_error_in_an_imported_template_has_its_own_line(
    types: dict[str, ProcessNodes], text: str, problem: str
) -> None:
    with pytest.raises(DescriptionError) as refused:
        parse(_with_file("template_import"), files={"a.py": text}, types=types)
    assert str(refused.value).startswith(problem)
