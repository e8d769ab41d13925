"""Bundles: loading a directory, reporting all problems, and packing independently of its location."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import Bundle, BundleError, Phase, Scope, read_archive, unpack, validate
from bundles.ignore import Ignored
from tests import hurtle_bundle

CODE = "import sdk\nclass A(sdk.Orchestrator): pass\n"
FILES = {
    "manifest.yaml": (
        "service_type: http://s/t#web\n"
        "icon: icon.svg\n"
        "service_attributes: {web.size: mutable}\n"
        "templates:\n"
        "  infrastructure: {deployment: templates/local.yaml}\n"
        "  kubernetes: {deployment: templates/kubernetes.yaml}\n"
        "  hot: {deployment: 'file:///templates/heat.yaml'}\n"
        "  tofu: {deployment: templates/main.tf}\n"
    ),
    "icon.svg": "<svg/>",
    "service_params.json": '{"deploy": [{"name": "flavor", "value": "small"}]}',
    "templates/local.yaml": (
        "infra_name: web\n"
        "parameters: {web.size: {type: number}, flavor: {}, org.archelon.region: {}}\n"
        "nodes: [{name: web, type: t}]\n"
        "'node_def:t': [{resource: {type: process, command: [a, '${parameters.web.size}', '${self.port}']}}]\n"
    ),
    "templates/kubernetes.yaml": (
        "apiVersion: v1\n"
        "kind: ConfigMap\n"
        "metadata: {name: 'web-${org.archelon.instance}'}\n"
        "data: {size: '${web.size}', flavor: '${flavor}', in: '${org.archelon.region}', params: '${files:service_params.json}'}\n"
        "---\n"
        "apiVersion: v1\n"
        "kind: Secret\n"
        "metadata: {name: 'web-${org.archelon.instance}'}\n"
    ),
    "templates/heat.yaml": "heat_template_version: 2018-08-31\nresources: {a: {type: T, user_data: 'echo ${HOME}'}}\n",
    "templates/main.tf": 'resource "x" {',
}


def write(directory: Path, files: dict[str, str]) -> Path:
    for path, content in files.items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    return directory


def problems(directory: Path, **changed: str | None) -> list[str]:
    """The bundle above with files changed (`__` for `/`, `_` for `.` in their keys) or removed."""
    write(directory, FILES)
    for path, content in changed.items():
        if content is None:
            (directory / path).unlink()
        else:
            write(directory, {path: content})
    found = [str(problem) for problem in validate(directory)]
    if found:
        with pytest.raises(BundleError) as error:
            Bundle.load(directory)
        assert str(error.value).splitlines() == found
    return found


def test_a_bundle_is_loaded(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    bundle = Bundle.load(tmp_path)
    assert bundle.files == tuple(sorted(FILES))
    assert bundle.manifest.term == "web"
    assert bundle.manifest.internal[Phase.DEPLOY][0].value == "small"
    assert not bundle.has_code
    assert bundle.read("icon.svg") == b"<svg/>"
    parameters = {"web.size": 3, "flavor": "small", "org.archelon.region": "here", "org.archelon.instance": "i"}
    document, _ = bundle.template(bundle.manifest.templates["kubernetes"].deployment).render(
        Scope(parameters, {"files": {"service_params.json": "{}"}})
    )
    assert isinstance(document, dict)
    assert document["data"] == {"size": 3, "flavor": "small", "in": "here", "params": "{}"}
    with pytest.raises(KeyError):
        bundle.read("../secret")


def test_a_bundle_for_hurtle_is_loaded_as_it_is(tmp_path: Path) -> None:
    hurtle_bundle.write(tmp_path)
    assert validate(tmp_path) == []
    bundle = Bundle.load(tmp_path)
    assert bundle.manifest.type == hurtle_bundle.TYPE
    chosen = bundle.manifest.resources["RegionOne"].templates
    assert chosen is not None
    assert (chosen.deployment, chosen.provision) == ("data/deployment.yaml", "data/provision.yaml")
    assert not bundle.has_code
    assert unpack(bundle.pack().archive, tmp_path / "unpacked") is not None
    assert Bundle.load(tmp_path / "unpacked").manifest == bundle.manifest
    (tmp_path / "data" / "setup.sh").unlink()
    assert [str(each) for each in validate(tmp_path)] == [
        "data/deployment.yaml:6:26: $.resources.setup.properties.config.get_file: no text file 'data/setup.sh'; "
        "put it into the bundle"
    ]


def test_a_manifest_of_its_own_precedes_hurtles(tmp_path: Path) -> None:
    hurtle_bundle.write(tmp_path)
    write(tmp_path, {"manifest.yaml": "service_type: http://s/t#own"})
    assert Bundle.load(tmp_path).manifest.term == "own"
    write(tmp_path, {"manifest.json": "{}"})
    assert "a second manifest beside manifest.yaml" in str(validate(tmp_path)[0])


def test_all_problems_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        **{
            "icon.svg": None,
            "templates/local.yaml": "nodes: 5\n",
            "templates/kubernetes.yaml": "apiVersion: v1\nmetadata: {name: '${org.archelon.instance}'}\n---\n- a\n",
            "templates/heat.yaml": "a: 1\na: 2\n",
            "templates/main.tf": None,
            "orchestrator.py": "import sdk\ndef broken(:\n",
            "service_params.json": '{"deploy": [{"name": 7, "value": 1}]}',
        },
    )
    assert [line.split(";")[0] for line in found] == [
        "manifest.yaml:2:7: $.icon: the bundle has no file icon.svg",
        "manifest.yaml:8:22: $.templates.tofu.deployment: the bundle has no file templates/main.tf",
        "orchestrator.py:2:12: this is not Python: invalid syntax",
        "service_params.json:1:22: $.deploy[0].name: is a number, not text",
        "templates/heat.yaml:2:1: $.a: the key is given twice, first on line 1",
        "templates/kubernetes.yaml:1:1: kind is missing",
        "templates/kubernetes.yaml:4:1: a document must be a Kubernetes object",
        "templates/local.yaml:1:8: 'nodes' must be a list",
    ]


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    (problem,) = validate(tmp_path)
    assert str(problem) == "\\udcff: the path contains a control character, or is not UTF-8; rename it"


def test_unknown_parameters_are_named_unless_code_may_add_them(tmp_path: Path) -> None:
    text = (
        "apiVersion: v1\nkind: ConfigMap\ndata: {size: '${web.sise}'}\nmetadata: {name: '${org.archelon.instance}'}\n"
    )
    assert problems(tmp_path, **{"templates/kubernetes.yaml": text}) == [
        "templates/kubernetes.yaml:3:14: $.data.size: ${web.sise} is unknown; "
        "declare it in service_attributes, or name one of flavor, web.size"
    ]
    assert problems(tmp_path, **{"templates/kubernetes.yaml": text, "orchestrator.py": CODE}) == []
    assert Bundle.load(tmp_path).has_code


LOCAL = FILES["templates/local.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("nodes: [", "foo: bar\nnodes: [", "3:6: the description has no 'foo'; expected one of "),
        ("type: t}", "type: x}", "3:27: no definition 'node_def:x'; add it; known are t"),
        ("web.size}", "web.sise}", "4:56: 'parameters.web.sise' names nothing; choose from web.size, flavor, "),
        ("self.port", "nodes.db.port", "4:82: 'nodes.db.port' names no node; choose from web"),
        ("[a,", "[!text_import {url: file://../../etc/passwd},", "4:53: '../../etc/passwd' is outside the bundle; put"),
        ("[a,", "[!text_import {url: file://a.py},", "4:53: unknown file 'a.py'; add it; known are icon.svg, "),
        ("[a,", "[!text_import {url: file://logo.png},", "4:53: the file 'logo.png' is not UTF-8 text; name a text"),
        ("[a,", "[!python/object:os.system {},", "4:53: $['node_def:t'][0].resource.command[0]: the tag !python/obje"),
        ("flavor: {}", "flavour: {}", "2:49: nothing gives the parameter 'flavour' a value; add a default, declare it"),
        ("command: [", "command: [a", None),
    ],
)  # fmt: skip
def test_an_infrastructure_is_read_as_when_it_is_deployed(
    tmp_path: Path, old: str, new: str, expected: str | None
) -> None:
    (tmp_path / "logo.png").write_bytes(b"\x89PNG")
    text = LOCAL.replace(old, new)
    assert text != LOCAL
    found = problems(tmp_path, **{"templates/local.yaml": text})
    assert [each[: len("templates/local.yaml:" + (expected or ""))] for each in found] == (
        [f"templates/local.yaml:{expected}"] if expected else []
    )


STACK = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: "web-${org.archelon.instance}"}
spec: {replicas: "${web.size}"}
---
apiVersion: archelon.org/v1
kind: Stack
nodes: {web: {of: "Deployment/web-${org.archelon.instance}", min: 1, max: "${web.size}"}}
outputs: {url: {of: "Deployment/web-${org.archelon.instance}", value: "http://${flavor}:{.spec.replicas}/"}}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('replicas: "${web.size}"', "replicas: two", "4:18: $.spec.replicas: this is not a number of replicas; write"),
        ('"web-${org.archelon.instance}"', "web", "3:18: $.metadata.name: another instance's object could have the same"),
        ("metadata:", "metdata:", "1:1: $.metadata: an object has no name; write `metadata: {name: …}`"),
        ("nodes:", "nods:", "8:7: $.nods: a Stack has no 'nods'; it has nodes, outputs and conditions"),
        ("Deployment/web", "Deployment/db", "8:14: $.nodes.web: `of` names no object of this template; write `of: <kind>/"),
        ("min: 1", "min: x", "8:14: $.nodes.web: its bounds are invalid; write 0 ≤ min ≤ max ≤ 1000"),
        ("{.spec.replicas}", "{spec}", "9:71: $.outputs.url.value: 'spec' is not a path; write for example {.spec.clust"),
        ("nodes: {web: {", "conditions: {web: {", "8:13: $.conditions: this is not a list; "),
    ],
)  # fmt: skip
def test_a_kubernetes_template_is_read_as_when_it_is_deployed(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert problems(tmp_path, **{"templates/kubernetes.yaml": STACK}) == []
    text = STACK.replace(old, new, 1)
    assert text != STACK
    found = problems(tmp_path, **{"templates/kubernetes.yaml": text.replace('max: "${web.size}"', "max: 4")})
    assert f"templates/kubernetes.yaml:{expected}" in "\n".join(found)


def test_a_template_for_heat_is_read_as_when_it_is_deployed(tmp_path: Path) -> None:
    text = (
        FILES["templates/heat.yaml"]
        + "parameters: {flavor: {type: string}, flavour: {type: string}, a: {default: 1}}\n"
    )
    assert problems(tmp_path, **{"templates/heat.yaml": text + "foo: bar\n"}) == [
        "templates/heat.yaml:4:1: $.foo: no such section; expected one of conditions, description, "
        "heat_template_version, outputs, parameter_groups, parameters, resources"
    ]
    assert problems(tmp_path, **{"templates/heat.yaml": text}) == [
        "templates/heat.yaml:3:38: nothing gives the parameter 'flavour' a value; add a default, declare it in "
        "service_attributes, or name one of flavor, web.size"
    ]
    assert problems(tmp_path, **{"templates/heat.yaml": text, "orchestrator.py": CODE}) == []


def test_one_implementation_without_faults_is_enough(tmp_path: Path) -> None:
    other = "{resource: {type: ec2}, contextualisation: {type: cloudinit, context_template: '{% for a in b %}{{a}}'}}"
    text = LOCAL.replace("[{resource", f"[{other}, {{resource")
    assert problems(tmp_path, **{"templates/local.yaml": text}) == []
    text = LOCAL.replace(
        "[{resource: {type: process, command: [a, '${parameters.web.size}', '${self.port}']}}]", f"[{other}]"
    )
    (found,) = problems(tmp_path, **{"templates/local.yaml": text})
    assert "'{{a}}' is not a reference" in found


PROCESS = "resource: {type: process, command: [a], ports: {http: 8080}}"
POD = "resource: {type: pod, image: x, ports: {http: 80}}"


@pytest.mark.parametrize(
    ("implementations", "expected"),
    [
        ([PROCESS, POD], None),
        ([PROCESS.replace("command", "comand")], "4:51: the resource 'process' has no 'comand'; did you mean 'command'?"),
        ([PROCESS.replace("8080", "70000")], "4:71: a port must be a number from 1024 to 65535, or 0 for any; correct it"),
        ([PROCESS.replace("8080", "80")], "4:71: port 80 is a system port; choose one from 1024 on, or 0 for any"),
        (["resource: {type: process}"], "4:27: a process needs exactly one command; write `command: [program, argument"),
        ([PROCESS + ", contextualisation: {type: process, env: [A]}"], "4:120: a variable has no '='; write NAME=value"),
        ([POD.replace("image", "imag")], "4:45: the resource 'pod' has no 'imag'; did you mean 'image'?"),
        ([POD.replace("80", "0")], "4:63: a pod's port is a number from 1 to 65535; correct it"),
        ([POD.replace("image: x", "command: x")], "4:48: 'command' must be a list of arguments; write [program, argument"),
        # Without an image it is valid: the region may have one.
        ([POD.replace("image: x, ", "")], None),
        # Each may be the chosen one.
        ([PROCESS, POD.replace("image", "imag")], "4:109: the resource 'pod' has no 'imag'; did you mean 'image'?"),
        ([POD, PROCESS.replace("[a]", "['${self.a}']")], "4:107: 'self.a' names no attribute; choose from address, "),
        # No platform chooses the second of a type.
        ([PROCESS, PROCESS.replace("command", "comand")], None),
        # Another package may provide the type.
        (["resource: {type: vm, comand: a}"], None),
        (["resource: {type: vm, comand: a}", PROCESS.replace("ports", "port")], "did you mean 'ports'?"),
    ],
)  # fmt: skip
def test_keys_of_known_resource_types_are_checked(
    tmp_path: Path, implementations: list[str], expected: str | None
) -> None:
    text = LOCAL.partition("'node_def")[0]
    text += f"'node_def:t': [{{{'}, {'.join(implementations)}}}]\n"
    found = problems(tmp_path, **{"templates/local.yaml": text})
    assert len(found) == (expected is not None), found
    assert not expected or expected in found[0]


def test_a_nodes_filter_excludes_implementations_from_the_check(tmp_path: Path) -> None:
    text = LOCAL.partition("'node_def")[0]
    text += f"'node_def:t': [{{{PROCESS.replace('command', 'comand')}}}, {{{POD}}}]\n"
    (found,) = problems(tmp_path, **{"templates/local.yaml": text})
    assert "'comand'" in found
    text = text.replace("type: t}", "type: t, filter: {type: pod}}")
    assert problems(tmp_path, **{"templates/local.yaml": text}) == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("files:icon.png", "${files:icon.png}: no such file; expected one of icon.svg, "),
        ("db:url", "${db:url}: no node db; write ${files:name}, or ${name} for a parameter"),
        ("files:logo.png", "the file logo.png is not UTF-8 text; name a text"),
    ],
)
def test_a_kubernetes_template_names_files_of_the_bundle(tmp_path: Path, reference: str, expected: str) -> None:
    (tmp_path / "logo.png").write_bytes(b"\x89PNG")
    text = FILES["templates/kubernetes.yaml"].replace("files:service_params.json", reference)
    (found,) = problems(tmp_path, **{"templates/kubernetes.yaml": text})
    assert found.startswith(f"templates/kubernetes.yaml:4:88: $.data.params: {expected}")


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("manifest.yaml", None, "manifest.yaml: no manifest; write one"),
        ("manifest.json", "{}", "manifest.json: a second manifest beside manifest.yaml; keep one of them"),
        ("service_params.json", "{", "service_params.json:1:2: this is not JSON"),
        ("orchestrator.py", "\0", "orchestrator.py"),
        ("orchestrator.py", "(" * 5000, "orchestrator.py:1:"),
        ("orchestrator.py", "x = " + "-" * 100_000 + "1", "orchestrator.py: Python cannot parse it"),
        ("orchestrator.py", "#" * 1_100_000, "orchestrator.py: longer than 1048576 bytes; split it into modules"),
        ("templates/kubernetes.yaml", "a: ${", "templates/kubernetes.yaml:1:4: $.a: '${' is not a reference"),
        ("templates/kubernetes.yaml", "", "templates/kubernetes.yaml: it has no objects; write at least one"),
        ("templates/heat.yaml", "- a", "templates/heat.yaml:1:1: this is not one map"),
        ("templates/heat.yaml", "", "templates/heat.yaml:1:1: this is not one map"),
        (
            "templates/local.yaml",
            "a: 1\n---\nb: 1",
            "templates/local.yaml:3:1: a second document",
        ),
        ("templates/local.yaml", "", "templates/local.yaml:1:1: the file is empty"),
        ("templates/heat.yaml", "resources: {}", "templates/heat.yaml:1:1: heat_template_version is missing"),
        ("A/x", "", None),
    ],
)
def test_single_problems(tmp_path: Path, path: str, content: str | None, expected: str | None) -> None:
    found = problems(tmp_path, **{path: content})
    assert found[0].startswith(expected) if expected else found == [], found


def test_an_image_excludes_code_in_the_bundle(tmp_path: Path) -> None:
    manifest = FILES["manifest.yaml"] + "image: registry.example.org/web:1\n"
    assert problems(tmp_path, **{"manifest.yaml": manifest}) == []
    assert Bundle.load(tmp_path).has_code
    assert problems(tmp_path, **{"manifest.yaml": manifest, "orchestrator.py": CODE}) == [
        "manifest.yaml:9:1: $.image: orchestrator.py exists too; keep one of the two: an image contains its own code"
    ]


def test_parameters_are_in_one_place(tmp_path: Path) -> None:
    inline = FILES["manifest.yaml"] + "service_params: {deploy: [{name: flavor, value: x}]}\n"
    assert problems(tmp_path, **{"manifest.yaml": inline}) == [
        "manifest.yaml:9:1: $.service_params: service_params.json exists too; keep the parameters in one of the two"
    ]
    named = FILES["manifest.yaml"] + "service_params: other.yaml\n"
    assert "the bundle has no file other.yaml" in problems(tmp_path, **{"manifest.yaml": named})[0]
    assert problems(tmp_path, **{"manifest.yaml": named, "other.yaml": "deploy: [{name: flavor, value: y}]"}) == []
    assert Bundle.load(tmp_path).manifest.internal[Phase.DEPLOY][0].value == "y"


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    assert [str(problem).split(";")[0] for problem in validate(tmp_path)] == [
        "directory: a symbolic link",
        "link: a symbolic link",
        "pipe: neither a file nor a directory",
    ]
    (tmp_path / ".archelonignore").write_text("link\ndirectory\n/pipe\n")
    assert validate(tmp_path) == []
    assert "link" not in read_archive(Bundle.load(tmp_path).pack().archive)


def test_a_manifest_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match=r"manifest\.yaml: a symbolic link") as error:
        Bundle.load(tmp_path)
    assert "root" not in str(error.value)


def test_a_manifest_by_itself_is_validated(tmp_path: Path) -> None:
    write(tmp_path, {"hurtle.json": '{"service_type": "http://s/t#x"}', "bad.json": "{}"})
    assert validate(tmp_path / "hurtle.json") == []
    assert [problem.file for problem in validate(tmp_path / "bad.json")] == ["bad.json"]
    assert "cannot be read" in str(validate(tmp_path / "none.json")[0])


def test_default_exclusions(tmp_path: Path) -> None:
    extra = {
        "__pycache__/a.pyc": "",
        ".git/config": "",
        "tests/test_a.py": "",
        "a/.DS_Store": "",
        "a/notes~": "",
        "a/b": "",
    }
    write(tmp_path, FILES | extra)
    assert set(Bundle.load(tmp_path).files) == {*FILES, "a/b"}
    (tmp_path / ".archelonignore").write_text("# mine\n!tests/\n*.svg\n")
    assert [str(problem) for problem in validate(tmp_path)] == [
        "manifest.yaml:2:7: $.icon: the bundle has no file icon.svg; "
        "stop ignoring it: write !icon.svg in .archelonignore"
    ]
    (tmp_path / ".archelonignore").write_text("!tests/\n")
    assert set(Bundle.load(tmp_path).files) == {*FILES, "a/b", "tests/test_a.py"}


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [
        ("*.md", "a/b.md", True),
        ("/*.md", "a/b.md", False),
        ("a/*.md", "a/b.md", True),
        ("a/*.md", "a/b/c.md", False),
        ("a/**/c.md", "a/b/c.md", True),
        ("a/**/c.md", "a/c.md", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("**/c", "a/b/c", True),
        ("?.md", "ab.md", False),
        ("a.b", "axb", False),
        ("(a|b)", "(a|b)", True),
        ("d/", "d", False),
        ("x", "a/x", True),
    ],
)
def test_ignore_patterns(pattern: str, path: str, *, ignored: bool) -> None:
    assert Ignored([pattern])(path, is_directory=False) is ignored
    assert Ignored([pattern, "!" + pattern])(path, is_directory=False) is False


def test_an_endless_ignore_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, FILES | {".archelonignore": "a\n" * 1000})
    assert str(validate(tmp_path)[0]).startswith(".archelonignore:501:1: more than 500 lines")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    for number in range(2001):
        (tmp_path / f"f{number}").touch()
    (problem,) = validate(tmp_path)
    assert "more than 2000 files" in problem.message


@settings(max_examples=20)
@given(st.permutations(sorted(FILES)), st.integers(0, 2**31), st.sampled_from([0o600, 0o644, 0o664]))
def test_the_digest_depends_on_the_files_only(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], mtime: int, mode: int
) -> None:
    expected = Bundle.load(write(tmp_path_factory.mktemp("first"), FILES)).pack()
    other = write(tmp_path_factory.mktemp("other"), {path: FILES[path] for path in order})
    for path in FILES:
        (other / path).chmod(mode)
        os.utime(other / path, (mtime, mtime))
    assert Bundle.load(other).pack() == expected
    (other / "icon.svg").chmod(mode | 0o100)
    assert Bundle.load(other).pack().digest != expected.digest


def test_a_bundle_round_trips_through_its_archive(tmp_path: Path) -> None:
    first = Bundle.load(write(tmp_path / "first", FILES))
    archive, digest = first.pack()
    second = Bundle.load(unpack(archive, tmp_path / digest, digest=digest))
    assert (second.manifest, second.files, second.pack()) == (first.manifest, first.files, (archive, digest))
    shutil.rmtree(tmp_path / "first")
    assert second.read("icon.svg") == b"<svg/>"


def test_a_checked_manifest_is_read_without_the_validator_unless_it_is_invalid(tmp_path: Path) -> None:
    directory = write(tmp_path, {"manifest.yaml": FILES["manifest.yaml"], "icon.svg": ""})
    program = (
        "import sys, bundles, pathlib\n"
        f"bundles.Bundle.load(pathlib.Path({str(directory)!r}), checked=True)\n"
        "print('jsonschema' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    write(tmp_path, {"manifest.yaml": "templates: []\n"})
    with pytest.raises(BundleError, match="service_type"):
        Bundle.load(directory, checked=True)
