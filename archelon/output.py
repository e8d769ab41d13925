"""What a command prints: a table for people on standard output, or JSON for programs; progress goes to standard error.

JSON is one document, with full names and unchanged values; a table shortens.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """Prints what a command found."""

    as_json: bool

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
        """A list: these columns as a table, or everything as JSON.

        Args:
            empty: what to say to people where there is nothing.
        """
        if self.as_json:
            self.document(list(rows))
            return
        if not rows:
            click.echo(empty, err=True)
            return
        from rich import box, console, table

        shown = table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            shown.add_column(column.upper(), overflow="fold")
        for row in rows:
            shown.add_row(*[_text(row.get(column)) for column in columns])
        # Piped output is cut nowhere: a program of the reader's may look for an id in it.
        wide = None if sys.stdout.isatty() else 1000
        console.Console(width=wide, soft_wrap=False, markup=False, highlight=False).print(shown)

    def fields(self, values: Mapping[str, Any]) -> None:
        """One thing, a line for each of its fields; nothing for fields without a value."""
        if self.as_json:
            self.document(dict(values))
            return
        there = {name: value for name, value in values.items() if value not in (None, "", [], {})}
        width = max([len(name) for name in there], default=0)
        for name, value in there.items():
            first, *rest = _text(value).splitlines() or [""]
            click.echo(f"{name:<{width}}  {first}")
            for line in rest:
                click.echo(f"{'':<{width}}  {line}")

    def line(self, text: str, **values: Any) -> None:
        """One sentence, or its values as JSON."""
        if self.as_json:
            self.document(values)
        else:
            click.echo(text)

    def document(self, value: Any) -> None:
        """JSON, whole."""
        click.echo(json.dumps(value, indent=2, default=str))


def output_option(command: Command) -> Command:
    """Gives a command `-o`, and its `answers` argument."""

    @click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, output: str, **options: Any) -> Any:
        return command(*arguments, answers=Answers(output == "json"), **options)

    return wrapped  # type: ignore[return-value]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return str(value)
