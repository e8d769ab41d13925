"""Templates for Heat and the files that they name: resolved inside the bundle, renamed, or refused by name."""

from __future__ import annotations

import json

import pytest

import bundles
from bundles import hot

VERSION = "heat_template_version: 2018-08-31\n"
ROOT = (
    VERSION
    + """
parameters: {type: {type: string}}
resources:
  a: {type: nested/inner.yaml, properties: {script: {get_file: a.sh}}}
  b: {type: OS::Heat::ResourceGroup, properties: {resource_def: {type: ../common/shared.template}}}
  c: {type: OS::Heat::Value, properties: {value: {get_file: 'file:///a.sh'}}}
"""
)
INNER = (
    VERSION + "resources: {s: {type: deeper.yaml, properties: {x: {get_file: a.sh}, y: {get_file: ./deeper.yaml}}}}\n"
)
FILES = {
    "templates/nested/inner.yaml": INNER,
    "templates/nested/deeper.yaml": VERSION + "resources: {}\n",
    "templates/nested/a.sh": "inner",
    "templates/a.sh": "outer",
    "a.sh": "root",
    "common/shared.template": "HeatTemplateFormatVersion: '2012-12-12'\nResources: {}\n",
    "unused.yaml": VERSION,
}


def gather(text: str = ROOT, *, environments: tuple[str, ...] = (), **more: str) -> hot.Gathered:
    return hot.gather("templates/main.yaml", text, read={**FILES, **more}.get, environments=environments)


def test_names_are_relative_to_their_file() -> None:
    found = gather()
    resources = found.template["resources"]
    assert resources["a"]["type"] == "templates/nested/inner.yaml"
    assert resources["b"]["properties"]["resource_def"]["type"] == "common/shared.template"
    texts = [resources["a"]["properties"]["script"], resources["c"]["properties"]["value"]]
    assert [found.files[each["get_file"]] for each in texts] == ["outer", "root"]
    inner = json.loads(found.files["templates/nested/inner.yaml"])["resources"]["s"]
    assert inner["type"] == "templates/nested/deeper.yaml"
    assert found.files[inner["properties"]["x"]["get_file"]] == "inner"
    # The same file is a template here and a text there.
    assert found.files[inner["properties"]["y"]["get_file"]] == FILES["templates/nested/deeper.yaml"]
    assert json.loads(found.files["templates/nested/deeper.yaml"]) == {
        "heat_template_version": "2018-08-31",
        "resources": {},
    }
    assert set(found.names) == FILES.keys() - {"unused.yaml"}


def test_gathering_is_idempotent() -> None:
    first = gather()
    again = hot.gather("templates/main.yaml", ROOT, read={name: FILES[name] for name in first.names}.get)
    assert (again.template, again.files) == (first.template, first.files)


@pytest.mark.parametrize(
    "reference",
    [
        "http://evil.example.org/x.yaml",
        "https://evil.example.org/x.yaml",
        "ftp://evil.example.org/x.yaml",
        "/etc/passwd.yaml",
        "../../outside.yaml",
        "file:///../outside.yaml",
        "nested/../../../outside.yaml",
        "..\\\\outside.yaml",
        "nowhere.yaml",
    ],
)
def test_files_outside_the_bundle_are_refused_by_name_and_position(reference: str) -> None:
    outside = {"../outside.yaml": VERSION, "../../outside.yaml": VERSION, "/etc/passwd.yaml": VERSION}
    for text in (
        f'resources:\n  a: {{type: "{reference}"}}\n',
        f'resources:\n  a: {{type: T, properties: {{x: {{get_file: "{reference}"}}}}}}\n',
    ):
        with pytest.raises(bundles.BundleError) as refused:
            gather(VERSION + text, **outside)
        [problem] = refused.value.problems
        assert (problem.file, problem.line) == ("templates/main.yaml", 3)
        assert reference.rpartition("/")[2].rpartition("\\")[2] in problem.message


def test_environments_register_nested_templates_and_later_ones_win() -> None:
    more = {
        "env/one.yaml": "parameters: {a: 1, b: 1}\nresource_registry: {'Our::Thing': ../common/shared.template}\n",
        "env/two.yaml": "parameters: {b: 2}\nresource_registry: {resources: {x: {'Our::Other': 'OS::Heat::None'}}}\n",
    }
    found = gather(VERSION, environments=("env/one.yaml", "env/two.yaml"), **more)
    assert found.environment == {
        "parameters": {"a": 1, "b": 2},
        "resource_registry": {
            "Our::Thing": "common/shared.template",
            "resources": {"x": {"Our::Other": "OS::Heat::None"}},
        },
    }
    assert set(found.names) == {*more, "common/shared.template"}
    with pytest.raises(bundles.BundleError, match="outside the bundle"):
        gather(
            VERSION,
            environments=("env/bad.yaml",),
            **{"env/bad.yaml": "resource_registry: {base_url: 'http://evil.example.org/'}\n"},
        )
    with pytest.raises(bundles.BundleError, match="no such environment"):
        gather(VERSION, environments=("env/none.yaml",))


def test_a_template_that_names_itself_is_read_once_and_one_without_a_version_is_refused() -> None:
    text = VERSION + "resources: {a: {type: main.yaml}}\n"
    assert gather(text, **{"templates/main.yaml": text}).names == ("templates/main.yaml",)
    with pytest.raises(bundles.BundleError, match="heat_template_version is missing"):
        gather("resources: {}\n")


SERVER = """parameters: {flavor: {type: string}, names: {type: json}}
conditions: {large: {equals: [{get_param: flavor}, m1.large]}}
resources:
  port: {type: OS::Neutron::Port, properties: {name: {get_param: [names, port]}}}
  server:
    type: OS::Nova::Server
    depends_on: [port]
    properties: {name: {get_param: 'OS::stack_name'}, port: {get_resource: port}, id: {get_attr: [port, id]}}
outputs: {url: {value: {get_attr: [server, first_address]}}}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("outputs:", "foo: bar\noutputs:", "templates/main.yaml:10:1: $.foo: no such section; expected one of "),
        ("conditions:", "condition:", "templates/main.yaml:3:1: $.condition: no such section; did you mean 'conditions'?"),
        ("{url: {value: {get_attr: [server, first_address]}}}", "5", "10:10: $.outputs: this is not a map; write"),
        ("get_param: flavor", "get_param: flavour", "3:43: $.conditions.large.equals[0].get_param: 'flavour' is not one "),
        ("get_param: [names", "get_param: [name", "$.resources.port.properties.name.get_param: 'name' is not one of the "),
        ("get_resource: port", "get_resource: prt", "'prt' is not one of the resources; did you mean 'port'?"),
        ("get_attr: [server,", "get_attr: [db,", "10:36: $.outputs.url.value.get_attr: 'db' is not one of the resources"),
        ("depends_on: [port]", "depends_on: volume", "8:17: $.resources.server.depends_on: 'volume' is not one of the "),
        ("type: OS::Neutron::Port, ", "", "5:9: $.resources.port: a resource has no type; write `type: OS::…`"),
    ],
)  # fmt: skip
def test_references_name_something(old: str, new: str, expected: str) -> None:
    gather(VERSION + SERVER)
    text = SERVER.replace(old, new)
    assert text != SERVER
    with pytest.raises(bundles.BundleError) as refused:
        gather(VERSION + text)
    assert expected in str(refused.value)
