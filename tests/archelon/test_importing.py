"""`archelon import hurtle`: a bundle for Hurtle becomes one to continue from, and its code is only read."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import bundles
import sdk
from archelon import hurtle_code
from archelon.errors import Status
from archelon.hurtle_code import CALLS, PHASES, Call, Phase, read_code, skeleton
from sdk import testing
from tests import hurtle_bundle

from .harness import ROOT, archelon

PAGE = (ROOT / "docs" / "coming-from-hurtle.md").read_text()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return hurtle_bundle.write(tmp_path / "turnip")


def test_the_imported_bundle_validates_and_works(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = archelon("import", "hurtle", source, "ported", "-o", "json")
    assert result.status == Status.DONE, result.err
    assert result.json["problems"] == []
    assert {"TurnipExecution.deploy", "TurnipExecution.template", "TurnipDecision.run"} <= set(result.json["methods"])
    bundle = bundles.Bundle.load(tmp_path / "ported")
    assert archelon("validate", "ported").status == Status.DONE
    templates = bundle.manifest.resources["RegionOne"].templates
    assert templates is not None
    assert (templates.deployment, templates.provision) == ("data/deployment.yaml", "data/provision.yaml")
    assert "data/setup.sh" in bundle.files
    assert not any(name.startswith("wsgi/") for name in bundle.files)
    # Neither the import nor the check has run it.
    assert not (tmp_path / "ran").exists()
    context = testing.Context(tmp_path / "ported")
    offers = {hurtle_bundle.MAAS: {"mcn.endpoint.maas": "192.0.2.9"}, hurtle_bundle.DNS: {}}
    after = context.run("deploy", testing.State(offers=offers))
    assert after.outcome == "done", after.message
    assert after.supplier("dns").given == {"mcn.endpoint.maas": "192.0.2.9"}
    assert [stack.region for stack in after.stacks] == ["RegionOne"]


def test_every_method_is_named_with_what_takes_its_place(source: Path, tmp_path: Path) -> None:
    assert archelon("import", "hurtle", source, tmp_path / "out").status == Status.DONE
    text = (tmp_path / "out" / "orchestrator.py").read_text()
    (orchestrator,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    methods = {
        node.name: ast.get_source_segment(text, node) or ""
        for node in orchestrator.body
        if isinstance(node, ast.FunctionDef)
    }
    assert set(methods) == {
        "activate",
        "deploy",
        "provision",
        "details",
        "update",
        "notify",
        "dispose",
        "on_tick",
        "template",
    }
    line = hurtle_bundle.FILES["wsgi/so.py"].splitlines().index("    def deploy(self):") + 1
    assert f'"""Was TurnipExecution.deploy (wsgi/so.py line {line})."""' in methods["deploy"]
    assert "It called self.resolver.deploy" in methods["deploy"]
    assert "It called self.deployer.deploy" in methods["deploy"]
    assert "self.deployment.put" in methods["deploy"]
    assert "self.runtime.query" in methods["on_tick"]
    assert "not ported yet" in methods["template"]
    for old in ("TurnipExecution.__init__", "TurnipDecision.stop", "ServiceOrchestrator.__init__", "util.get_maas"):
        assert old in text


def test_paths_of_another_machine_are_found_in_the_bundle(source: Path, tmp_path: Path) -> None:
    place = source / "data" / "service_manifest.json"
    text = place.read_text().replace("/opt/app-root/src/", "/home/me/so/bundle/")
    place.write_text(text.replace("data/provision.yaml", "data/nowhere.yaml"))
    result = archelon("import", "hurtle", source, tmp_path / "out")
    assert result.status == Status.FAILED
    region = json.loads((tmp_path / "out" / "manifest.json").read_text())["resources"]["RegionOne"]
    assert region == {"deployment": "data/deployment.yaml", "provision": "home/me/so/bundle/data/nowhere.yaml"}
    assert "the bundle has no file home/me/so/bundle/data/nowhere.yaml" in result.out


def test_a_bundle_below_and_one_without_code(source: Path, tmp_path: Path) -> None:
    (source / "wsgi" / "so.py").unlink()
    source.rename(tmp_path / "bundle")
    assert archelon("import", "hurtle", tmp_path, tmp_path / "out").status == Status.DONE
    assert not bundles.Bundle.load(tmp_path / "out").has_code


def test_what_cannot_be_imported_is_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert archelon("import", "hurtle", tmp_path, out).status == Status.NOT_FOUND
    (source / "wsgi" / "so.py").write_text("#" * 600_000)
    refused = archelon("import", "hurtle", source, out)
    assert (refused.status, "wsgi/so.py cannot be read" in refused.err) == (Status.FAILED, True)
    (source / "data" / "service_manifest.json").write_text('{"service_type": "http://s/t#../../x"}')
    assert "no service_type with a term" in archelon("import", "hurtle", source).err
    assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    hurtle_bundle.write(source)
    assert archelon("import", "hurtle", source, out).status == Status.CONFLICT


def test_links_are_not_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (source / "data" / "leak").symlink_to(tmp_path / "secret")
    result = archelon("import", "hurtle", source, tmp_path / "out")
    assert "data/leak: a symbolic link" in result.out
    assert (tmp_path / "out" / "data" / "leak").is_symlink()


def test_validation_says_that_code_for_hurtle_is_not_run(source: Path) -> None:
    result = archelon("validate", source)
    assert result.status == Status.DONE
    assert f"`archelon import hurtle {source}`" in result.out


@pytest.mark.parametrize(
    "line",
    [
        "print 'a', self.deployer",
        "print >>log, 'a'",
        "print 'a %s' % (\n            1,\n        )",
        "raise ValueError, 'a'",
        "exec 'a' in {}",
        "mode = 0644L",
        "a = `b` <> c",
        "if a: print 'b'",
        "try:\n            pass\n        except IOError, error:\n            pass",
        "try:\n            pass\n        except (IOError, OSError), error:\n            pass",
        "a = ur'b'",
        "\tprint 'tab'",
    ],
)
def test_python_2_is_read(line: str) -> None:
    code = read_code(
        f"class X(Execution):\n    def design(self):\n        {line}\n\n    def deploy(self, (a, b)):\n        pass\n"
    )
    assert [method.name for method in code.methods] == ["design", "deploy"]


def test_no_text_of_the_code_becomes_code() -> None:
    lines = [
        "class X(Execution):",
        "    def deploy(self):",
        """        self.d['\"\"\"\\n\"\"\"; raise SystemExit'].deployer.deploy("\\n\\nraise")""",
        "    def stop(self): pass",
        "    def class_(self): pass",
        "    def __del__(self): pass",
    ]
    made = skeleton(read_code("\n".join(lines)), term="x", file="so.py", taken=["stop"])
    (orchestrator,) = [node for node in ast.parse(made).body if isinstance(node, ast.ClassDef)]
    methods = [node.name for node in orchestrator.body if isinstance(node, ast.FunctionDef)]
    assert methods == ["deploy", "ported_stop", "class_", "_del"]
    assert "It called self.d[…].deployer.deploy" in made
    assert "SystemExit" not in made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class X(Execution):\n    def deploy(self):\n        a" + ".b" * 2000 + "()\n", "nested too deep"),
        ("-" * 100_000 + "1\n", "cannot parse"),
        ("x = 1\n" * 2000 + "print 'x'\n" * 100, "cannot parse"),
    ],
    ids=["deep", "deeper", "long"],
)
def test_code_that_would_take_long_is_refused(text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hurtle_code, "_MAX_PARSED", 1_000_000)
    with pytest.raises(ValueError, match=words):
        read_code(text)


def test_a_long_line_is_not_translated() -> None:
    # Its expressions would take a time that grows with the square of the spaces.
    assert read_code("except" + " " * 500_000 + "x\n").unread == (1,)


def row_of(entry: Phase | Call) -> str:
    arguments = "" if isinstance(entry, Phase) else "(…)"
    ours = ", ".join(f"`{name}`" for name in entry.ours) or "–"
    return f"| `{entry.of}.{entry.old}{arguments}` | {ours} | {entry.note} |"


def test_the_page_has_every_row_and_no_other() -> None:
    rows = re.findall(r"^\| `.*\|$", PAGE, re.MULTILINE)
    assert rows == [row_of(entry) for entry in (*PHASES, *CALLS)]


def test_every_name_on_the_page_exists() -> None:
    named = sorted(set(re.findall(r"\bself(?:\.\w+)+", PAGE)) | {f"self.{name}" for row in PHASES for name in row.ours})
    assert len(named) > 25
    missing: list[str] = []

    class Looking(sdk.Orchestrator):
        def deploy(self) -> None:
            for path in named:
                found: object = self
                for part in path.split(".")[1:]:
                    found = getattr(found, part, None)
                    if found is None:
                        missing.append(path)

    after = testing.Context(ROOT / "orchestrators" / "hello", Looking).run("deploy")
    assert (after.outcome, missing) == ("done", [])
    for name in re.findall(r"\bsdk\.([A-Z]\w+)", PAGE):
        assert name in sdk.__all__
