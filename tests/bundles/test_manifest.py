"""Manifests: Hurtle's and ours, error texts, and agreement of schema, reader and documentation."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_api import service_manager as wire
from archelon_core.documents.reading import read_text
from archelon_core.documents.tree import plain
from bundles import (
    BundleError,
    Input,
    InternalParameter,
    Mutability,
    OnFailedCreate,
    Pattern,
    PatternError,
    Phase,
    Problem,
    Scope,
    Template,
    Templates,
    ValueType,
    manifest_schema,
    misfit,
    read_manifest,
)
from bundles.manifest_reading import read_internal

SM = "http://schemas.example.org/occi/sm#"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "manifest.md"

HURTLE = """{
  "service_type": "http://schemas.example.org/occi/sm#demo",
  "service_description": "text",
  "service_attributes": {"mcn.endpoint.p1": "immutable", "mcn.endpoint.p2": ""},
  "service_endpoint": "http://host:8888/demo/",
  "depends_on": [
    {"http://schemas.example.org/occi/sm#maas": {"inputs": []}},
    {"http://schemas.example.org/occi/sm#dns": {"inputs": ["http://schemas.example.org/occi/sm#maas#mcn.endpoint.maas"]}}
  ],
  "resources": {"RegionOne": {"deployment": "file:///data/deployment.yaml", "provision": "file:///data/provision.yaml"}}
}"""


def examples() -> list[str]:
    """The YAML blocks of the documentation."""
    return re.findall(r"```yaml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)


def full() -> dict[str, object]:
    """The documentation's large example as plain values, with the fields that it omits."""
    document = read_manifest(examples()[1], file="manifest.yaml").source.document()
    assert isinstance(document, dict)
    document |= {
        "image": "registry.example.org/guestbook@sha256:00",
        "service_endpoint": "http://h/",
        "x-bill": {"a": 1},
    }
    return document  # type: ignore[return-value]


def refused(text: str, file: str = "manifest.yaml") -> list[str]:
    with pytest.raises(BundleError) as error:
        read_manifest(text, file=file)
    return str(error.value).splitlines()


def test_hurtles_manifest_is_read() -> None:
    manifest = read_manifest(HURTLE, file="manifest.json")
    assert (manifest.scheme, manifest.term) == (SM, "demo")
    assert [item.mutability for item in manifest.attributes.values()] == [Mutability.IMMUTABLE, Mutability.OPTIONAL]
    assert [item.writable for item in manifest.attributes.values()] == [False, True]
    assert manifest.endpoint == "http://host:8888/demo/"
    maas, dns = manifest.dependencies
    assert (maas.type, maas.inputs) == (SM + "maas", ())
    assert dns.inputs == (Input(SM + "maas", "mcn.endpoint.maas", "mcn.endpoint.maas"),)
    assert list(manifest.resources) == ["RegionOne"]
    one = manifest.resources["RegionOne"]
    assert (one.format, one.templates) == ("hot", Templates("data/deployment.yaml", "data/provision.yaml"))


def test_yaml_and_json_give_equal_manifests() -> None:
    assert read_manifest(HURTLE, file="manifest.json") == read_manifest(HURTLE, file="manifest.yaml")


def test_the_example_has_the_expected_values() -> None:
    manifest = read_manifest(examples()[1], file="manifest.yaml")
    size = manifest.attributes["guestbook.size"]
    assert size.required
    assert size.type is ValueType.NUMBER
    assert size.misfit(11) == "does not match its pattern (keyword maximum)"
    assert size.misfit(10) is None
    assert manifest.attributes["guestbook.password"].secret
    assert manifest.actions["backup"].attributes["target"].required
    assert manifest.dependencies[1].inputs[1].target == "dns.monitoring.port"
    assert manifest.dependencies[2].binding == (None, "guestbook.database")
    assert manifest.phases[Phase.DEPLOY].timeout == 900.0
    assert manifest.on_failed_create is OnFailedCreate.ROLLBACK
    assert manifest.quotas.instances == 20
    assert manifest.internal[Phase.DEPLOY][0].value == 2
    assert manifest.templates["kubernetes"] == Templates("templates/kubernetes.yaml")
    assert list(manifest.resources) == ["RegionOne", "RegionTwo"]
    one, two = manifest.resources["RegionOne"], manifest.resources["RegionTwo"]
    assert (one.format, one.templates) == (None, None)
    assert (two.format, two.templates) == ("hot", Templates("templates/two.yaml"))


def test_values_of_parameters_are_in_no_representation() -> None:
    parameter = InternalParameter("password", ValueType.STRING, "hunter2")
    assert "hunter2" not in repr(parameter)
    text = examples()[1].replace("{name: replicas, type: number, value: 2}", "{name: password, value: hunter2}")
    manifest = read_manifest(text, file="manifest.yaml")
    assert manifest.internal[Phase.DEPLOY][0].value == "hunter2"
    assert "hunter2" not in repr(manifest)


ERRORS = [
    (
        "service_type: demo",
        'manifest.yaml:1:15: $.service_type: "demo" does not fit; '
        "expected a URI, # and a term, such as http://schemas.example.org/occi/sm#demo",
    ),
    ("title: x", "manifest.yaml:1:1: service_type is missing; add service_type: a URI, # and a term, such as "),
    ("- a", "manifest.yaml:1:1: is a list, not a map; expected a map that describes a service"),
    ("", "manifest.yaml:1:1: the file is empty; see docs/manifest.md"),
    ("{service_type: 'http://a/b#c'}\n---\n{}", "manifest.yaml:3:1: a second document; keep one document a file"),
    (
        "service_atributes: {}",
        "manifest.yaml:2:1: $.service_atributes: no such key; did you mean service_attributes? expected one of ",
    ),
    (
        "service_attributes:\n  a: imutable",
        'manifest.yaml:3:6: $.service_attributes.a: is "imutable", not one of "immutable", "required", "mutable", ""; '
        'expected immutable, required, mutable or ""',
    ),
    (
        "service_attributes:\n  a b: ''",
        "manifest.yaml:3:3: $.service_attributes['a b']: the name does not fit; expected an attr",
    ),
    (
        "service_attributes:\n  occi.x: ''",
        "manifest.yaml:3:3: $.service_attributes['occi.x']: the name belongs to the platform; choose one that",
    ),
    (
        "service_attributes:\n  a: {type: number, default: hunter2}",
        "manifest.yaml:3:30: $.service_attributes.a.default: is not of type number; change the default, or the type and pattern",
    ),
    (
        "service_attributes:\n  a: {pattern: 'x+', default: hunter2}",
        "manifest.yaml:3:31: $.service_attributes.a.default: does not match its pattern; change",
    ),
    (
        "service_attributes:\n  a: {secret: true, default: hunter2}",
        "manifest.yaml:3:30: $.service_attributes.a.default: every tenant would read the default of a secret; leave it out",
    ),
    (
        "service_attributes:\n  a: {mutability: required, default: hunter2}",
        "manifest.yaml:3:38: $.service_attributes.a.default: a required attribute never takes its default; leave out",
    ),
    (
        "service_attributes:\n  a: {pattern: '(a'}",
        "manifest.yaml:3:16: $.service_attributes.a.pattern: RE2 cannot compile the expression: missing ): (a; see",
    ),
    (
        "service_attributes:\n  a: {pattern: '(?=a)'}",
        "manifest.yaml:3:16: $.service_attributes.a.pattern: RE2 cannot compile",
    ),
    (
        "service_attributes:\n  a: {pattern: {$ref: 'http://elsewhere/'}}",
        "manifest.yaml:3:16: $.service_attributes.a.pattern: the keyword '$ref' is not supported; expected one of additional",
    ),
    (
        "service_attributes:\n  a: {type: number, pattern: a}",
        "manifest.yaml:3:30: $.service_attributes.a.pattern: a regular expression for a number; write a JSON Schema",
    ),
    (
        "service_actions:\n  retry: {}",
        "manifest.yaml:3:3: $.service_actions.retry: every service already has this action; choose another term",
    ),
    (
        "depends_on:\n  - http://a/b#c: {inputs: ['http://a/b#d#x']}",
        "manifest.yaml:3:29: $.depends_on[0]['http://a/b#c'].inputs[0]: depends_on has no entry for http://a/b#d; "
        "add the entry {http://a/b#d: {}} to depends_on, or take",
    ),
    (
        "depends_on:\n  - http://s/t#me: {}",
        "manifest.yaml:3:5: $.depends_on[0]['http://s/t#me']: the service depends on its",
    ),
    (
        "depends_on:\n  - http://a/b#c: {}\n  - http://a/b#c: {}",
        "manifest.yaml:4:5: $.depends_on[1]['http://a/b#c']: the service is listed twice; keep one entry for it",
    ),
    (
        "depends_on:\n  - http://a/b#c: {bind: {parameter: db}}",
        "manifest.yaml:3:38: $.depends_on[0]['http://a/b#c'].bind.parameter: no attribute db; declare db in",
    ),
    (
        "depends_on:\n  - http://a/b#c: {inputs: ['http://a/b#c#x']}",
        "manifest.yaml:3:29: $.depends_on[0]['http://a/b#c'].inputs[0]: the input comes from http://a/b#c, the very service "
        "that takes it; take it from another service of depends_on, or give a value of yours under attributes",
    ),
    (
        "depends_on:\n  - http://a/b#c:",
        "manifest.yaml:3:18: $.depends_on[0]['http://a/b#c']: is null, not a map; expected a map with inputs, attributes, bind "
        "and region, each of them optional, such as {inputs: []}",
    ),
    (
        "depends_on:\n  - http://a/b#c: {bind: {id: x, parameter: y}}",
        "manifest.yaml:3:26: $.depends_on[0]['http://a/b#c'].bind: has 2 keys, more than 1; expected a map with either id",
    ),
    (
        "depends_on:\n  - http://a/b#c: {bind: {id: x}, attributes: {k: v}}",
        "manifest.yaml:3:47: $.depends_on[0]['http://a/b#c'].attributes: no instance is created that could take them: bind names",
    ),
    (
        "depends_on:\n  - http://a/b#c:\n      attributes: {k: 'x ${nope}'}",
        "manifest.yaml:4:23: $.depends_on[0]['http://a/b#c'].attributes.k: ${nope} is unknown; name one of this service's",
    ),
    (
        "depends_on:\n  - http://a/b#c:\n      attributes: {k: [1, 'x ${']}",
        "manifest.yaml:4:27: $.depends_on[0]['http://a/b#c'].attributes.k[1]: '${' is not a reference; write ${name}",
    ),
    (
        "templates:\n  hot: {deployment: ../../etc/passwd}",
        "manifest.yaml:3:21: $.templates.hot.deployment: the path contains an empty part, . or ..; put the file into the bundle",
    ),
    (
        "templates:\n  hot: {deployment: 'https://elsewhere/x.yaml'}",
        "manifest.yaml:3:21: $.templates.hot.deployment: is a URL; put the file into the bundle",
    ),
    ("resources:\n  R: {}", "manifest.yaml:3:6: $.resources.R: no templates; add templates, or a deployment"),
    (
        "resources:\n  R: {provision: x}",
        "manifest.yaml:3:6: $.resources.R: deployment is missing; add deployment: the path of",
    ),
    (
        "phases:\n  deploy: {timeout: 25h}",
        "manifest.yaml:3:21: $.phases.deploy.timeout: is not between a second and a day; write 1s to 24h",
    ),
    (
        "phases:\n  deploy: {retries: -1}",
        "manifest.yaml:3:21: $.phases.deploy.retries: is below 0; expected attempts after",
    ),
    (
        "service_params:\n  deploy:\n    - {name: a, value: x}\n    - {name: a, type: number, value: hunter2}",
        "manifest.yaml:5:14: $.service_params.deploy[1].name: the parameter is defined twice; keep one of them",
    ),
    ('title: "a\\nb"', 'manifest.yaml:2:8: $.title: "a\\nb" does not fit; expected a name for people, on one line'),
    ('title: "a\\n"', 'manifest.yaml:2:8: $.title: "a\\n" does not fit'),
    (
        "version: 1.10",
        "manifest.yaml:2:10: $.version: is a number, not text; expected the provider's own version, as text",
    ),
]


@pytest.mark.parametrize(("text", "expected"), ERRORS, ids=range(len(ERRORS)))
def test_an_error_has_position_and_remedy(text: str, expected: str) -> None:
    if "service_type" not in expected and not expected.startswith("manifest.yaml:1:1") and "service_type" not in text:
        text = "service_type: http://s/t#me\n" + text
    lines = refused(text)
    assert lines[0].startswith(expected), lines
    assert all("; " in line for line in lines)
    assert "hunter2" not in "\n".join(lines)


def test_all_problems_are_reported_at_once_in_the_order_of_the_text() -> None:
    lines = refused("service_type: x\nversion: 1\nphases: {deply: {}}\nservice_attributes: {a: b}\nicon: x.exe\n")
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3", "4", "5"]


def test_the_number_of_problems_is_limited() -> None:
    lines = refused("".join(f"key{number}: 1\n" for number in range(5_000)))
    assert len(lines) == 100


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    [
        "service_attributes:\n" + "".join(f"  a{number}: ''\n" for number in range(40_000)),
        "service_attributes:\n" + "".join(f"  a{number}: x\n" for number in range(40_000)),
        "depends_on:\n" + "- a\n" * 60_000,
        "title: '" + "x" * 1_000_000 + "'",
        "depends_on: [{'http://a/b#c': {attributes: {k: [" + "'${x}'," * 60_000 + "]}}}]",
    ],
)
def test_large_manifests_are_refused_in_time(text: str) -> None:
    lines = refused("service_type: http://s/t#me\n" + text)
    assert 1 <= len(lines) <= 100
    assert max(len(line) for line in lines) < 2000


@pytest.mark.parametrize(("start", "end", "levels"), [("properties: {p: {", "}}", 30), ("items: {", "}", 60)])
def test_the_deepest_pattern_is_read(start: str, end: str, levels: int) -> None:
    text = "service_type: http://s/t#me\nservice_attributes: {a: {type: array, default: [], pattern: {"
    manifest = read_manifest(text + start * levels + end * levels + "}}}", file="manifest.yaml")
    value: object = 1
    for _ in range(levels):
        value = [value]
    assert manifest.attributes["a"].misfit(value) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("text", examples()[:2])
def test_the_documentations_manifests_are_read(text: str) -> None:
    assert read_manifest(text, file="manifest.yaml").type.startswith(SM)


def test_the_documentations_template_is_rendered() -> None:
    template = Template.parse(examples()[2], file="kubernetes.yaml")
    (document,) = template.render(Scope({"guestbook.motto": "a: b\n- c", "replicas": 2}))
    assert isinstance(document, dict)
    assert document["metadata"] == {"name": "web", "annotations": {"motto": "Welcome: a: b\n- c"}}
    assert document["spec"] == {"replicas": 2}


def test_the_documentation_has_every_field_in_a_table() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", DOCUMENTATION.read_text(), re.MULTILINE)
    schema = manifest_schema()
    definitions = schema["$defs"]
    wanted = set(schema["properties"])
    for name in ("attribute", "region"):
        wanted |= set(definitions[name]["properties"])
    wanted |= set(definitions["dependency"]["additionalProperties"]["properties"])
    assert wanted <= set(rows)
    assert set(rows) - wanted == {"x-…", "${name}", "${files:name}", "$${"}


def test_the_documentation_states_the_limits_that_hold() -> None:
    text = DOCUMENTATION.read_text()
    for limit in ("1,048,576 characters", "64 levels", "100,000 values", "256 documents", "2,000 files and 64 MiB"):
        assert limit in text


def test_every_field_of_the_schema_changes_the_manifest() -> None:
    document = full()
    whole = read_manifest(json.dumps(document), file="manifest.json")
    schema = manifest_schema()
    unset = set(schema["properties"]) - set(document) - {"service_type"}
    assert unset == set()
    for name in document:
        if name == "service_type":
            continue
        less = {key: value for key, value in document.items() if key != name}
        if name == "service_attributes":
            less.pop("depends_on")
        if name == "templates":
            less.pop("resources")
        assert read_manifest(json.dumps(less), file="manifest.json") != whole, name


def test_the_schema_is_valid_and_published_under_its_name() -> None:
    schema = manifest_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == "http://schemas.archelon.org/bundle/manifest.json"
    assert schema["$id"] in DOCUMENTATION.read_text()
    phases = {phase.value for phase in Phase}
    assert set(schema["properties"]["phases"]["properties"]) == phases
    assert set(schema["properties"]["service_params"]["properties"]) == phases
    assert set(schema["$defs"]["attribute"]["properties"]["type"]["enum"]) == {kind.value for kind in ValueType}
    assert set(schema["$defs"]["mutability"]["enum"]) == {word.value for word in Mutability}


def test_every_structure_has_an_example_that_is_valid() -> None:
    schema = manifest_schema()
    checked = 0
    for path in places(schema):
        part: Any = schema
        for step in path:
            part = part[step]
        if not isinstance(part, dict) or "description" not in part or path[-1:] == ("properties",) or not path:
            continue
        kinds = [part["type"]] if isinstance(part.get("type"), str) else part.get("type", [])
        # A pattern's examples are in docs/manifest.md.
        if not {"object", "array"} & set(kinds) or path[-1] in ("pattern", "input"):
            continue
        example = re.search(r"such as ([\[{].*[\]}])(?:, or .*)?$", part["description"])
        assert example is not None, part["description"]
        value = plain(read_text(example[1], file="example.yaml")[0])
        validator = jsonschema.Draft202012Validator({"$defs": schema["$defs"], **part})
        assert [error.message for error in validator.iter_errors(value)] == [], example[1]
        checked += 1
    assert checked > 15


junk = st.sampled_from(
    [None, True, 0, -1, 1.5, 10**7, "", "x", "a b", "x\n", [], ["x"], {}, {"x": "y"}, [{}], "http://a/b#c"]
).map(copy.deepcopy)


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in items:
        found.extend(places(below, (*path, step)))
    return found


@given(st.data())
def test_the_reader_refuses_what_the_schema_refuses_and_accepts_or_reports_the_rest(data: st.DataObject) -> None:
    document = copy.deepcopy(full())
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([place for place in places(document) if place]))
        parent: object = document
        for step in path[:-1]:
            parent = parent[step]  # type: ignore[index]
        change = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace":
            parent[path[-1]] = data.draw(junk)  # type: ignore[index]
        elif change == "remove":
            del parent[path[-1]]  # type: ignore[attr-defined]
        elif isinstance(parent, dict):
            parent[data.draw(st.sampled_from(["x", "a b", "x-y", "http://a/b#c", "pattern"]))] = data.draw(junk)
    accepted = jsonschema.Draft202012Validator(manifest_schema()).is_valid(document)
    problems: tuple[Problem, ...] = ()
    try:
        manifest = read_manifest(json.dumps(document), file="manifest.json")
    except BundleError as error:
        problems = error.problems
    else:
        assert accepted
        assert manifest.source.document() == document
        return
    assert problems
    assert all(problem.line and problem.remedy for problem in problems)


def test_parameters_in_a_separate_file() -> None:
    text = '{"initialise": [{"name": "a", "type": "number", "value": 1}], "deploy": [{"name": "b", "value": "x"}]}'
    (root,) = read_text(text, file="service_params.json")
    internal = read_internal(root, file="service_params.json")
    assert {phase: [item.value for item in items] for phase, items in internal.items()} == {
        Phase.INITIALISE: [1],
        Phase.DEPLOY: ["x"],
    }
    for bad, expected in [
        ('"other.json"', "service_params.json:1:1: is text, not a map"),
        (
            '{"deploy": [{"name": "b", "value": 7}]}',
            "service_params.json:1:36: $.deploy[0].value: is not of type string",
        ),
        ('{"deplоy": []}', "no such key; did you mean deploy?"),
    ]:
        (root,) = read_text(bad, file="service_params.json")
        with pytest.raises(BundleError, match=re.escape(expected)):
            read_internal(root, file="service_params.json")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (ValueType.STRING, ["", "a"], [1, True, None, [], {}]),
        (ValueType.NUMBER, [1, -1.5], ["1", True, None]),
        (ValueType.BOOLEAN, [True, False], [0, 1, "true"]),
        (ValueType.ARRAY, [[], [1]], ["", {}]),
        (ValueType.OBJECT, [{}, {"a": 1}], [[], ""]),
    ],
)
def test_types(kind: ValueType, good: list[object], bad: list[object]) -> None:
    assert [misfit(value, kind) for value in good] == [None] * len(good)  # type: ignore[arg-type]
    assert [misfit(value, kind) for value in bad] == [f"is not of type {kind.value}"] * len(bad)  # type: ignore[arg-type]


def test_patterns_match_the_whole_text() -> None:
    pattern = Pattern("a|b")
    assert pattern.misfit("a") is None
    assert pattern.misfit("ab") == pattern.misfit("a\n") == "does not match its pattern"
    assert Pattern({"pattern": "^a$"}).misfit("a\n") is not None
    assert pattern.schema() == {"pattern": "^(?:a|b)$"}
    assert Pattern({"items": {"minimum": 1}}).misfit([1, 0]) == "does not match its pattern (at [1], keyword minimum)"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("declared", ["(a+)+$", "(a|aa)*c", {"pattern": "^(a+)+$"}])
def test_no_pattern_stalls(declared: str | dict[str, object]) -> None:
    assert Pattern(declared).misfit("a" * 100_000 + "!") is not None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "declared",
    [
        "(",
        r"\1",
        "(?<=a)b",
        "((a{0,100}){0,100}){0,100}",
        "a" * 1001,
        {"$ref": "#"},
        {"items": {"uniqueItems": True}},
        {"minimum": "x"},
        {"pattern": "("},
        {"properties": {"a": {"allOf": []}}},
    ],
)
def test_unfit_patterns_are_refused(declared: str | dict[str, object]) -> None:
    with pytest.raises(PatternError):
        Pattern(declared)  # type: ignore[arg-type]


def test_the_actions_of_every_service_are_reserved() -> None:
    for action in (*wire.LIFECYCLE_ACTIONS, wire.REPORT, wire.RENEW):
        text = f"service_type: http://example.org/s#s\nservice_actions: {{{action.term}: {{}}}}\n"
        with pytest.raises(BundleError, match="every service already has this action"):
            read_manifest(text, file="manifest.yaml")


def test_a_manifest_with_too_many_values_is_refused() -> None:
    text = "depends_on:\n" + "- http://e.org/occi/sm#s: {inputs: []}\n" * 10_000
    with pytest.raises(BundleError, match="more than 20000 values") as caught:
        read_manifest(text, file="manifest.yaml")
    assert len(caught.value.problems) == 1


def test_reading_stops_after_a_hundred_problems() -> None:
    with pytest.raises(BundleError) as caught:
        read_manifest("service_attributes:\n" + "  a: {}\n" * 5_000, file="manifest.yaml")
    assert len(caught.value.problems) == 100
