"""Output of commands: tables for people, documents or plain values for programs. Progress goes to standard error.

Documents contain full names and unchanged values; tables abbreviate. What a table shows may come from another tenant, so
characters that a terminal would obey are escaped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from archelon_core.control_characters import escaped

from .errors import CommandError, Status

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS: Final = ("table", "wide", "json", "yaml", "value")
_GAP: Final = "  "
#: Width in characters below which a column of text is not wrapped any further.
_NARROWEST: Final = 16


def program_name() -> str:
    """Return what to enter in a shell to run this command: its path, unless the shell finds it by its name."""
    own, found = Path(sys.executable).with_name("archelon"), shutil.which("archelon")
    if not own.exists():
        return f"{shlex.quote(sys.executable)} -m archelon"
    return "archelon" if found is not None and own.samefile(found) else shlex.quote(str(own))


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """Prints the results of a command.

    Attributes:
        form: one of `FORMATS`.
        columns: the columns or fields to print, in this order; empty for the command's own choice.
    """

    form: str = "table"
    columns: tuple[str, ...] = ()

    @property
    def as_json(self) -> bool:
        """Whether results are printed as documents, in JSON or YAML."""
        return self.form in ("json", "yaml")

    @property
    def for_people(self) -> bool:
        """Whether a command may print more than the rows of one table: headings, or several tables."""
        return self.form in ("table", "wide") and not self.columns

    def rows(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str, wide: Sequence[str] = ()
    ) -> None:
        """Print a table, or everything as a document; for an empty table, print `empty` on standard error.

        Args:
            columns: columns of a table.
            wide: further ones, for `-o wide`.

        Raises:
            CommandError: a column that the user named does not exist.
        """
        shown = self._columns(rows, columns, wide)
        if self.as_json:
            self.document([{name: row.get(name) for name in shown} for row in rows] if self.columns else list(rows))
        elif not rows:
            click.echo(empty, err=True)
        else:
            self.lines(rows, shown, header=self.form != "value")

    def lines(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, header: bool) -> None:
        """Print rows as lines: aligned on a terminal, otherwise with one tab between columns and nothing else added."""
        cells = [[_text(row.get(column)) for column in columns] for row in rows]
        if header:
            cells.insert(0, [column.upper() for column in columns])
        if self.form != "value" and sys.stdout.isatty():
            for line in _aligned(cells, shutil.get_terminal_size().columns, header=header):
                click.echo(line)
            return
        for row in cells:
            click.echo("\t".join([" ".join(cell.split("\n")) for cell in row]).rstrip("\t"))

    def changes(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, first: bool, wide: Sequence[str] = ()
    ) -> None:
        """Print some rows of a table that changes: as lines, or a document for each.

        Args:
            first: whether a table's heading is printed before them.
        """
        shown = self._columns(rows, columns, wide)
        if self.as_json:
            for row in rows:
                self.event(row)
            return
        self.lines(rows, shown, header=first and self.form != "value")
        sys.stdout.flush()

    def _columns(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], wide: Sequence[str]) -> Sequence[str]:
        if not self.columns:
            return [*columns, *wide] if self.form == "wide" else columns
        known = dict.fromkeys([*columns, *wide, *[name for row in rows for name in row]])
        for name in self.columns:
            if name not in known:
                raise CommandError(
                    f"there is no column {name!r}; expected one of {', '.join(known)}", status=Status.USAGE
                )
        return self.columns

    def fields(self, values: Mapping[str, Any]) -> None:
        """Print an object, one line per field; fields without a value are omitted."""
        chosen = {name: values.get(name) for name in self.columns} if self.columns else dict(values)
        if self.as_json:
            self.document(chosen)
            return
        if self.form == "value":
            for value in chosen.values():
                click.echo(" ".join(_text(value).split("\n")))
            return
        present = {name: _text(value) for name, value in chosen.items() if value not in (None, "", [], {})}
        width = max([len(name) for name in present], default=0)
        for name, text in present.items():
            first, *rest = text.split("\n")
            click.echo(f"{name:<{width}}{_GAP}{first}".rstrip())
            for line in rest:
                click.echo(f"{'':<{width}}{_GAP}{line}".rstrip())

    def line(self, text: str, **values: Any) -> None:
        """Print a message, or its values."""
        if self.as_json or self.form == "value" or self.columns:
            self.fields(values)
        else:
            click.echo(text)

    def document(self, value: Any) -> None:
        """Print a value as a document."""
        if self.form == "yaml":
            import yaml

            # By way of JSON, which leaves plain values only.
            plain = json.loads(json.dumps(value, default=str))
            click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)
        else:
            click.echo(json.dumps(value, indent=2, default=str))

    def event(self, value: Mapping[str, Any]) -> None:
        """Print one of a sequence of documents: a line of JSON, or a YAML document."""
        chosen = {name: value.get(name) for name in self.columns} if self.columns else dict(value)
        if self.form == "yaml":
            click.echo("---")
            self.document(chosen)
        else:
            click.echo(json.dumps(chosen, default=str))
        # The reader acts on each as it happens.
        sys.stdout.flush()


def output_option(command: Command) -> Command:
    """Decorate a command with `-o`, `-c` and an `output` argument."""

    @click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", help="Output format; value is for scripts."
    )
    @click.option("-c", "--column", "columns", multiple=True, help="Print this column or field only; repeatable.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, output: str, columns: tuple[str, ...], **options: Any) -> Any:
        return command(*arguments, output=Output(output, columns), **options)

    return wrapped  # type: ignore[return-value]


def _aligned(cells: list[list[str]], width: int, *, header: bool) -> Iterator[str]:
    """Yield the lines of a table. Only columns of words are wrapped to fit the width: an id, path or time stays whole."""
    columns = list(zip(*cells, strict=True))
    widths = [max([len(line) for text in column for line in text.split("\n")]) for column in columns]
    wordy = [index for index, column in enumerate(columns) if any(" " in text for text in column)]
    # A column may hold words in one row and an id in another.
    whole = [
        max([len(line) for text in column for line in text.split("\n") if " " not in line], default=0)
        for column in columns
    ]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        wide = [index for index in wordy if widths[index] > max(_NARROWEST, whole[index])]
        if not wide:
            break
        widths[max(wide, key=lambda index: widths[index])] -= 1
    for number, row in enumerate(cells):
        wrapped = [
            [
                part
                for line in text.split("\n")
                for part in (_wrapped(line, widths[index]) if index in wordy else [line])
            ]
            for index, text in enumerate(row)
        ]
        for level in range(max([len(parts) for parts in wrapped])):
            parts = [parts[level] if level < len(parts) else "" for parts in wrapped]
            line = _GAP.join([f"{part:<{widths[index]}}" for index, part in enumerate(parts)]).rstrip()
            yield click.style(line, bold=True) if header and number == 0 else line


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]


def for_terminal(text: str) -> str:
    """Return text of unknown origin as a terminal may receive it: control characters escaped, but newlines and tabs."""
    return escaped(text.replace("\r\n", "\n"), kept="\n\t")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value)
    # An orchestrator's author may have chosen the value. A tab would begin another column.
    return escaped(str(value).replace("\r\n", "\n"), kept="\n")
