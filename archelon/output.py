"""Output of commands: tables for people or JSON for programs on standard output; progress goes to standard error.

JSON output is one document, with full names and unchanged values; tables abbreviate.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from archelon_core.control_characters import escaped

Command = TypeVar("Command", bound=Callable[..., Any])


def program_name() -> str:
    """Return what to enter in a shell to run this command: its path, unless the shell finds it by its name."""
    own, found = Path(sys.executable).with_name("archelon"), shutil.which("archelon")
    if not own.exists():
        return f"{shlex.quote(sys.executable)} -m archelon"
    return "archelon" if found is not None and own.samefile(found) else shlex.quote(str(own))


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """Prints the results of a command as tables or JSON."""

    as_json: bool

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
        """Print these columns as a table, or everything as JSON; for an empty table, print `empty` on standard error."""
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
        # Piped output is not truncated: a script may search it for an id.
        wide = None if sys.stdout.isatty() else 1000
        console.Console(width=wide, soft_wrap=False, markup=False, highlight=False).print(shown)

    def fields(self, values: Mapping[str, Any]) -> None:
        """Print an object, one line per field; fields without a value are omitted."""
        if self.as_json:
            self.document(dict(values))
            return
        present = {name: value for name, value in values.items() if value not in (None, "", [], {})}
        width = max([len(name) for name in present], default=0)
        for name, value in present.items():
            first, *rest = _text(value).splitlines() or [""]
            click.echo(f"{name:<{width}}  {first}")
            for line in rest:
                click.echo(f"{'':<{width}}  {line}")

    def line(self, text: str, **values: Any) -> None:
        """Print a message, or its values as JSON."""
        if self.as_json:
            self.document(values)
        else:
            click.echo(text)

    def document(self, value: Any) -> None:
        """Print a value as JSON."""
        click.echo(json.dumps(value, indent=2, default=str))


def output_option(command: Command) -> Command:
    """Decorate a command with `-o` and an `output` argument."""

    @click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Output format.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, output: str, **options: Any) -> Any:
        return command(*arguments, output=Output(output == "json"), **options)

    return wrapped  # type: ignore[return-value]


def for_terminal(text: str) -> str:
    """Return text of unknown origin as a terminal may receive it: control characters escaped, but newlines and tabs."""
    return escaped(text.replace("\r\n", "\n"), kept="\n\t")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value)
    # An orchestrator's author may have chosen the value.
    return for_terminal(str(value)) if sys.stdout.isatty() else str(value)
