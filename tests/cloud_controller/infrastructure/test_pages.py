"""docs/infrastructure.md and the metrics of docs/sdk.md: complete, and true.

While the page's examples are parsed, every section of a description records the keys, bounds and defaults that the parser asks
it for. The tables have to agree with them, and every place that knows its keys has to occur in an example.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bundles.infrastructure import parsing, rendering, sections
from bundles.infrastructure.rendering import RenderedItem
from bundles.infrastructure.resource_types import RESOURCE_TYPES, pod, process
from bundles.infrastructure.resource_types import contents as common
from cloud_controller.platforms import contents
from cloud_controller.platforms.local.orders import Restart
from cloud_controller.runtime import backend, scraping, work
from tests.code_blocks import code_blocks

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "infrastructure.md").read_text()
SDK = (DOCS / "sdk.md").read_text()
#: Text of every file that an example imports.
IMPORTED = {
    "store.py": "print('${stack.name}')",
    "server.py": "print()",
    "run.sh": "exec sleep ${TIME:-9}",
    "web.conf": "listen ${self.port};",
    "web.yaml": "{type: process}",
}
#: The heading of each section's table, by the section's name in messages.
HEADINGS = {
    ("parsing", "the description"): "The description",
    ("parsing", "the node"): "Nodes",
    ("parsing", "'scaling'"): "Scaling",
    ("parsing", "an implementation"): "Node definitions",
    ("parsing", "'health_check'"): "Health check",
    ("parsing", "a database"): "A database",
    ("parsing", "parameter"): "Parameters",
    ("parsing", "output"): "Outputs",
    ("common", "the resource 'process'"): "The resource process",
    ("process", "'limits'"): "Limits of a process",
    ("process", "'restart'"): "Restart of a process",
    ("common", "the contextualisation 'process'"): "The contextualisation process",
    ("common", "the resource 'pod'"): "The resource pod",
    ("pod", "'requests'"): "Requests and limits of a pod",
    ("pod", "'limits'"): "Requests and limits of a pod",
    ("pod", "'restart'"): "Restart of a pod",
    ("common", "the contextualisation 'pod'"): "The contextualisation pod",
}
MODULES = {parsing: "parsing", common: "common", process: "process", pod: "pod"}
#: Examples of what the page describes in tables only.
MORE = """
infra_name: more
nodes: [{name: a, type: a}, {name: b, type: b, filter: {type: pod}}]
'node_def:a':
  - resource: {type: process, command: [x], ports: {http: 0}}
    health_check: {mysqldbs: [{name: n, user: u, pass: p}]}
'node_def:b':
  - resource: {type: pod, ports: [http], image: x}
    contextualisation: {type: pod, command: [x]}
"""


class Recorded:
    """What the parser asked of sections: keys by table, places in the source, and calls with defaults and bounds."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, str], set[str]] = {}
        self.places: set[tuple[str, int]] = set()
        self.asked: list[tuple[tuple[str, str], str, str, tuple[Any, ...], dict[str, Any]]] = []

    def section(self, module: str) -> type[sections.Section]:
        recorded = self

        class Recording(sections.Section):
            def __init__(self, item: RenderedItem, what: str, known: Iterable[str] | None = None) -> None:
                names = None if known is None else [*known]
                super().__init__(item, what, names)
                self.table = (module, re.sub(r"^(parameter|output) '.*", r"\1", what))
                if names is not None:
                    keys = {"node_def:…" if each.startswith("node_def:") else each for each in names}
                    recorded.keys.setdefault(self.table, set()).update(keys)
                    recorded.places.add((module, sys._getframe(1).f_lineno))

            def _ask(self, method: str, key: str, *given: Any, **named: Any) -> Any:
                recorded.asked.append((self.table, method, key, given, named))
                return getattr(sections.Section, method)(self, key, *given, **named)

            def whole(self, key: str, default: int, *, least: int = 0) -> int:
                return int(self._ask("whole", key, default, least=least))

            def seconds(self, key: str, default: float, *, least: float = 0.0, most: float = 86400.0) -> float:
                return float(self._ask("seconds", key, default, least=least, most=most))

            def flag(self, key: str, default: bool) -> bool:
                return bool(self._ask("flag", key, default))

            def choice(self, key: str, default: str, among: Iterable[str]) -> str:
                return str(self._ask("choice", key, default, [*among]))

        return Recording


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """What the parser asked while it parsed every example, with each choice of an implementation."""
    found = Recorded()
    with pytest.MonkeyPatch.context() as patch:
        for module, name in MODULES.items():
            patch.setattr(module, "Section", found.section(name))
        examples = [*code_blocks(PAGE, "yaml"), MORE]
        assert len(examples) >= 4
        for example in examples:
            files = dict(IMPORTED)
            if example.startswith("'node_def:"):
                files["nodes/node_definitions.yaml"] = example
                example = "infra_name: x\nnodes: [{name: worker, type: worker}]\n"
            versions = [example]
            if "type: pod" in example:
                versions.append(example.replace("name: store\n", "name: store\n    filter: {type: pod}\n"))
            for version in versions:
                try:
                    parsing.parse(version, files=files, types=RESOURCE_TYPES)
                except rendering.DescriptionError as problem:
                    pytest.fail(f"{problem}\n{version}")
    return found


def table(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table below a heading, by the names in their first cells."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/infrastructure.md has no heading {heading!r}"
    rows: dict[str, list[str]] = {}
    for line in re.findall(r"^\| (`.*) \|$", found[1], re.MULTILINE):
        cells = [each.strip() for each in re.split(r" \| |\| (?=\|)", line)]
        for name in re.findall(r"`([^`]+)`", cells[0]):
            rows[name] = cells
    return rows


def test_every_key_is_documented_and_every_documented_key_exists(recorded: Recorded) -> None:
    assert set(recorded.keys) == set(HEADINGS), "give the section a table, and enter its heading in HEADINGS"
    for where, keys in recorded.keys.items():
        assert set(table(HEADINGS[where])) == keys, f"the table below {HEADINGS[where]!r} of docs/infrastructure.md"
    assert set(table("Dependencies")) == {"connection", "mappings"}


def test_every_section_occurs_in_an_example(recorded: Recorded) -> None:
    expected = set()
    for module, name in MODULES.items():
        for each in ast.walk(ast.parse(inspect.getsource(module))):
            calls = isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "Section"
            if calls and len(each.args) == 3:
                expected.add((name, each.lineno))
    assert recorded.places == expected


def test_defaults_bounds_and_choices_are_documented(recorded: Recorded) -> None:
    assert len(recorded.asked) > 30
    for where, method, key, given, named in recorded.asked:
        row = table(HEADINGS[where])[key]
        text = " ".join(row)
        if method == "choice":
            assert given[0] in row[2], row
            assert [each for each in given[1] if f"`{each}`" not in text] == [], row
        elif where == ("process", "'restart'"):
            assert f"{getattr(Restart(), key):g}" == row[2], row
        elif method == "flag":
            assert row[2] == str(given[0]).lower(), row
        elif method == "seconds":
            assert row[2] == f"{given[0]:g}", row
            least, most = named["least"], named["most"]
            assert not least or f"{least:g} to {most:g}" in text, row
            assert f"{most:g}" in text, row
        elif where == ("parsing", "'scaling'"):
            assert row[2] in ("1", "`min`"), row


def test_references_and_limits_are_documented() -> None:
    for name in (*parsing.ATTRIBUTES, *parsing._ALIASES, *parsing._ALIASES.values()):
        assert f"`{name}`" in PAGE, name
    for name in rendering._OCCOPUS:
        assert f"`{{{{{name}}}}}`" in PAGE, name
    for name in ("getip", "getprivip", "getipall"):
        assert rendering._CALL.fullmatch(f"{name}(web)")
        assert f"`{{{{{name}(<node>)}}}}`" in PAGE, name
    for space in ("parameters", "variables", "self", "nodes", "mapped", "stack"):
        assert f"`${{{space}." in PAGE, space
    limits = dict(re.findall(r"^\| (\w[^|]*?) \| ([\d,]+) \|$", PAGE, re.MULTILINE))
    for what, number in parsing._MOST.items():
        assert next(value for name, value in limits.items() if name.startswith(what)) == f"{number:,}", what
    documents = (rendering._BYTES, rendering._LIMITS.nodes, rendering._LIMITS.depth, parsing._PATTERN)
    assert {f"{number:,}" for number in documents} <= set(limits.values())
    assert contents.text_of(True) == "true"


def test_the_metrics_of_a_node_are_read_as_documented() -> None:
    [example] = code_blocks(SDK, "prometheus")
    assert scraping.parse(example) == {"visitors": 12, "requests_total": 42}
    section = re.search(r"^## Metrics\n(.*?)(?=^## )", SDK, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert "`visitors` 12 and `requests_total` 42" in section[1]
    for number in (
        scraping._METRICS,
        scraping._NAME,
        f"{scraping._LIMITS.seconds:g} seconds",
        f"{scraping._LIMITS.size >> 20} MiB",
        work._KEPT,
        f"{backend._SHORTEST:g} to {backend._LONGEST:g}",
    ):
        assert f"{number}" in section[1], number
