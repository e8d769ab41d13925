"""Text templates: output, sandbox and limits, with real child processes throughout."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from archelon_core.templates import child
from archelon_core.templates import text as text_templates
from archelon_core.templates.text import TemplateError, render
from tests.waiting import until

HOSTILE = """'; rm -rf / #"$(id)`id`\n\\ {{ 7 * 7 }} {% raw %} <b>&é\u2028😀"""

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


LOOP = "{% for u in users %}- {{ u | json }}\n{% endfor %}"


def test_a_template() -> None:
    template = "#cloud-config\nhostname: {{ name | yaml }}\ncount: {{ count }}\n" + LOOP
    text = render(template, {"name": "web", "count": 3, "users": ["a", "b"]})
    assert text == '#cloud-config\nhostname: "web"\ncount: 3\n- "a"\n- "b"\n'


def test_values_never_become_code_or_structure() -> None:
    """One child renders a hostile value through every filter; each reader parses the same value."""
    names = ["shell", "yaml", "json", "base64", "url", "html"]
    rendered = text_templates.render_all({name: f"{{{{ v | {name} }}}}" for name in names}, {"v": HOSTILE})
    assert shlex.split(rendered["shell"]) == [HOSTILE]
    assert yaml.safe_load(rendered["yaml"]) == HOSTILE
    assert json.loads(rendered["json"]) == HOSTILE
    assert "<" not in rendered["json"] + rendered["html"] + rendered["url"]
    assert all("49" not in text for text in rendered.values())


@given(values)
def test_yaml_and_json_values_round_trip(value: Any) -> None:
    assert yaml.safe_load(child.yaml(value)) == value
    assert yaml.safe_load(f"- a: {child.yaml(value)}\n  b: 1") == [{"a": value, "b": 1}]
    assert json.loads(child.as_json(value)) == value


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(max_examples=30)
def test_a_real_shell_reads_one_word(text: str) -> None:
    script = f"printf '%s' {child.shell(text)}"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode("utf-8") == text


@given(st.text())
def test_an_ini_value_stays_on_its_line(text: str) -> None:
    try:
        quoted = child.ini(text)
    except child.QuotingError:
        return
    parser = configparser.RawConfigParser(inline_comment_prefixes=("#", ";"))
    parser.read_string(f"[a]\nkey = {quoted}\nnext = 1\n")
    assert dict(parser["a"]) == {"key": text, "next": "1"}


@given(st.text())
def test_plain_refuses_special_characters(text: str) -> None:
    try:
        assert shlex.split(child.plain(text)) == ([text] if text else [])
        assert not text.startswith("-")
    except child.QuotingError:
        assert text


ESCAPES = [
    "{{ ''.__class__.__mro__ | json }}",
    "{{ ''['__class__'] | json }}",
    "{{ ''|attr('__class__') | json }}",
    "{{ v.__init__.__globals__ | json }}",
    "{{ self.__init__ | json }}",
    "{{ self._TemplateReference__context | json }}",
    "{{ range.__globals__ | json }}",
    "{{ namespace.__init__.__globals__ | json }}",
    "{{ '{0.__class__}'.format(v) | json }}",
    "{{ '{0.__class__.__mro__}'.format_map({'0': v}) | json }}",
    "{{ (v|map(attribute='__class__')|list) | json }}",
    "{{ v.append(1) | json }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() | json }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os | json }}",
    "{% extends 'x' %}",
    "{{ dict.mro() | json }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_sandbox_escapes_are_refused(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render("\n" + template, {"v": [1]})
    assert "class '" not in str(caught.value)
    assert "root:" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "line", "reason"),
    [
        ("a\n{{ nam | shell }}", 2, "'nam' is undefined; give this parameter (given: name, secret)"),
        ("a\n\n{{ name.other | shell }}", 3, "has no attribute 'other'"),
        ("{{ name }}", 1, "inserted without quoting; end the expression with one of: base64, html, ini"),
        ("{{ name | shell ~ name }}", 1, "without quoting"),
        ("{{ (name | shell).replace('a', 'b') }}", 1, "without quoting"),
        ("{{ name | safe }}", 1, "No filter named 'safe'"),
        ('x\n"{{ name | shell }}"', 2, "adds its own quotes; remove those around the braces"),
        ("a\n{% if %}", 2, "correct the template"),
        ("a\nb\n{{ name", 3, "correct the template"),
        ("{{ [1] | shell }}\n{{ [[1]] | ini }}", 2, "takes text or a number; use json or yaml"),
        ("{{ 1 // 0 }}", 1, "the expression fails (ZeroDivisionError)"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() | plain }}", 1, "endlessly"),
    ],
)
def test_errors_name_line_and_remedy(template: str, line: int, reason: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(template, {"name": "x y", "secret": "hunter2"}, name="user-data")
    assert caught.value.line == line
    assert reason in caught.value.reason
    assert str(caught.value).startswith(f"template 'user-data', line {line}: ")


@pytest.mark.parametrize(
    "template",
    ["{{ {}[secret] | json }}", "{{ secret | plain }}", "{{ secret | ini }}", "{{ secret }}", "{{ secret | round }}",
     "{{ secret.hunter | json }}", "{{ secret() }}", "{{ 1 + secret }}"],
)  # fmt: skip
def test_no_error_contains_a_value(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(template, {"secret": " hunter2\n"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "longer than 1 s"),
        ("{{ 10 ** (10 ** 8) }}", "longer than 1 s|MiB"),
        ("{{ ('a' * 10 ** 9) | length }}", "more than 64 MiB"),
        (
            "{% set n = namespace(v='aaaaaaaa') %}{% for a in range(99) %}{% set n.v = n.v ~ n.v %}{% endfor %}",
            "64 MiB",
        ),
        ("{% for a in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaa' | plain }}{% endfor %}", "exceeds 1048576 characters"),
    ],
)
def test_expensive_templates_are_stopped(template: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        render(template, {})


def test_a_child_that_waits_for_the_processor_is_not_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """On a busy machine it may wait for longer than it may compute."""
    slow = tmp_path / "child.py"
    code = text_templates._CHILD.read_text()
    begins = "    request = json.load(sys.stdin.buffer)\n"
    assert code.count(begins) == 1
    slow.write_text(code.replace(begins, f"    __import__('time').sleep(1.2)\n{begins}"))
    monkeypatch.setattr(text_templates, "_CHILD", slow)
    assert render("{{ v | plain }}", {"v": "a"}) == "a"


def test_the_largest_allowed_text_is_rendered() -> None:
    text = render("{% for a in range(1024) %}{{ v | plain }}{% endfor %}", {"v": "a" * 1024})
    assert text == "a" * 1024 * 1024


def test_too_much_input_starts_no_child() -> None:
    with pytest.raises(TemplateError, match="exceed 1048576 bytes"):
        render("{{ v | plain }}", {"v": "a" * 1024 * 1024})


def test_a_child_that_ignores_its_limits_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The parent does not rely on the child: this one sets no limits, floods or hangs, and starts a child of its own."""
    pids = tmp_path / "pids"
    stubborn = tmp_path / "child.py"
    stubborn.write_text(
        "import os, sys, time\n"
        f"if os.fork(): open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "while True: time.sleep(1)\n"
    )
    monkeypatch.setattr(text_templates, "_CHILD", stubborn)
    monkeypatch.setattr(text_templates, "_GRACE", 0.3)
    calls = 0

    def clock() -> float:
        """Stand still until the child, which runs at the second call, has a child of its own; its start may take any time."""
        nonlocal calls
        calls += 1
        if calls > 1:
            until(lambda: pids.exists() and pids.read_text().endswith("\n"), "the child has a child")
        return 0.0

    with pytest.raises(TemplateError, match=r"longer than 0\.2 s"):
        limits = text_templates.TemplateLimits(seconds=0.2)
        text_templates.render_all({"text": "x"}, {}, limits=limits, clock=clock)
    group = int(pids.read_text())
    until(lambda: not _running(group), "all of them are gone")


def _running(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


def test_the_child_inherits_nothing_from_its_parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("ARCHELON_SECRET", "hunter2")
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    spy = tmp_path / "child.py"
    spy.write_text(
        "import os, sys, json\n"
        "seen = [dict(os.environ), sorted(os.listdir('/proc/self/fd')), os.getcwd()]\n"
        "seen += [sys.flags.isolated, os.getsid(0) == os.getpid()]\n"
        "print(json.dumps([{'text': json.dumps(seen)}]))\n"
    )
    monkeypatch.setattr(text_templates, "_CHILD", spy)
    environment, descriptors, directory, isolated, leads = json.loads(render("x", {}))
    os.close(inherited)
    assert set(environment) <= {"LC_CTYPE"}
    assert descriptors in (["0", "1", "2"], ["0", "1", "2", "3"])  # 3: the listing itself
    assert (directory, isolated, leads) == ("/", 1, True)
