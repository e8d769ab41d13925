"""Every command of ours that an error, a hint, a help text or a page advises exists, with its options and arguments."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from archelon.main import archelon as root
from tests.test_package import PACKAGES

from .harness import ROOT

#: What a text leaves open: `…`, `<name>`, and the values of an f-string.
_OPEN = "…"
#: Where a command begins in a text: in backquotes, on a line of its own, or after another command.
_COMMAND = re.compile(
    r"(?:(?<=`)|(?<=&& )|^[ \t]*(?:next: )?(?:[A-Z_]+=\S+ +)*)(?:\.venv/bin/|python -m )?archelon(?= [-a-z…])[^`\n]*",
    re.MULTILINE,
)
#: An option by itself, in a message or in backquotes.
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


class Advice(NamedTuple):
    """A command line that a text advises, and where."""

    where: str
    line: str


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The strings in a Python source, with their lines; the values of f-strings are `…`."""
    tree = ast.parse(path.read_text(), str(path))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else _value(part) for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def _value(part: ast.expr) -> str:
    """What an f-string's value is in a command: the program itself, or anything."""
    expression = part.value if isinstance(part, ast.FormattedValue) else part
    return "archelon" if isinstance(expression, ast.Name) and expression.id == "program" else _OPEN


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def pages() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [*found, *sorted((ROOT / "orchestrators").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]


def advices() -> Iterator[Advice]:
    for path in sources():
        for line, text in texts(path):
            for found in _COMMAND.findall(text):
                yield Advice(f"{path.relative_to(ROOT)}:{line}", found)
    for path in pages():
        # A command may be broken after a backslash, or, in backquotes, anywhere.
        text = re.sub(r"\\\n\s*", " ", path.read_text())
        text = re.sub(r"(?<!`)`[^`\n]+\n[^`\n]+`(?!`)", lambda match: " ".join(match[0].split()), text)
        for found in _COMMAND.findall(text):
            yield Advice(str(path.relative_to(ROOT)), found)


def options_of(command: click.Command) -> dict[str, click.Option]:
    context = click.Context(command, info_name="archelon", help_option_names=["-h", "--help"])
    parameters = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    return {name: each for each in parameters for name in (*each.opts, *each.secondary_opts)}


def fault(line: str) -> str | None:
    """Why a command line cannot be run, or None."""
    for part in re.split(r"&&|\|\||[|;>]|(?:^|\s)#|\s&(?:\s|$)", line):
        if re.search(r"(?:^|[\s/])archelon\s", part) and (found := _fault(part)) is not None:
            return found
    return None


def _fault(line: str) -> str | None:
    words = shlex.split(re.sub(r"<[^<>]*>", _OPEN, line.replace("[", "").replace("]", "")))
    words = words[next(index for index, word in enumerate(words) if word.endswith("archelon")) + 1 :]
    command: click.Command = root
    given: list[str] = []
    is_open = False
    while words:
        word = words.pop(0)
        options = options_of(command)
        name = word.partition("=")[0]
        if word.startswith("-") and word != "-":
            if name not in options:
                return f"{command.name} has no option {name}"
            takes = not options[name].is_flag and not options[name].count
            # Without an argument either, the text names the option and not a use of it.
            if takes and "=" not in word and not words and given:
                return f"{name} of {command.name} has no value"
            if takes and "=" not in word and words:
                words.pop(0)
        elif isinstance(command, click.Group) and word != _OPEN:
            found = command.get_command(click.Context(command), word)
            if found is None:
                return f"{command.name} has no command {word}"
            command = found
        else:
            is_open = is_open or _OPEN in word
            given.append(word)
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    most = sum(each.nargs for each in arguments) if all(each.nargs > 0 for each in arguments) else None
    if most is not None and len(given) > most and not (is_open and isinstance(command, click.Group)):
        return f"{command.name} takes {most} arguments, not {len(given)}"
    # Without any, the text names the command and not a use of it.
    least = sum(max(each.nargs, 1) for each in arguments if each.required)
    return (
        f"{command.name} needs {least} arguments, not {len(given)}"
        if given and len(given) < least and not is_open
        else None
    )


def test_every_advised_command_exists() -> None:
    found = list(advices())
    wrong = [f"{each.where}: `{each.line}`: {why}" for each in found if (why := fault(each.line)) is not None]
    assert not wrong, "\n".join(wrong)
    named = {each.where.partition(":")[0] for each in found}
    assert {
        "archelon/dev.py",
        "archelon/errors.py",
        "archelon/bundle.py",
        "docs/start.md",
        "docs/cli.md",
        "README.md",
    } <= named
    assert len(found) > 60


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("archelon pack hello", "no command pack"),
        ("archelon instance order hello", "no command order"),
        ("archelon publish hello --rolling", "no option --rolling"),
        ("archelon new a b", "takes 1 arguments, not 2"),
        ("archelon realm token issue alice --tenant", "no value"),
        ("archelon new hello && archelon pack hello", "no command pack"),
        ("archelon instance update", None),
        ("archelon instance update 3f2a hello.greeting='x y'", None),
        ("archelon dev --shared", None),
        ("archelon realm token issue --tenant", None),
        ("archelon --debug …", None),
        ("archelon publish …", None),
    ],
)
def test_what_does_not_exist_is_found(line: str, why: str | None) -> None:
    found = fault(line)
    assert (found is None) == (why is None), found
    assert why is None or why in (found or "")


def _all_options(command: click.Command) -> set[str]:
    found = set(options_of(command))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            found |= _all_options(member)
    return found


def test_every_option_that_a_message_names_exists() -> None:
    known = _all_options(root)
    wrong = []
    for path in sources():
        if path.relative_to(ROOT).parts[0] != "archelon":
            continue
        for line, text in texts(path):
            # An option that is a word of its own is an argument of another program.
            if " " in text.strip():
                wrong += [f"{path.name}:{line}: {each}" for each in _OPTION.findall(text) if each not in known]
    for name in ("cli.md", "start.md"):
        text = (ROOT / "docs" / name).read_text()
        wrong += [
            f"{name}: {each}"
            for quoted in re.findall(r"`(--[^`]*)`", text)
            for each in _OPTION.findall(quoted)
            if each not in known
        ]
    assert not wrong, "\n".join(wrong)
