"""`archelon completion`: shell completion of commands, options, services, instances, attributes and actions.

Click completes commands and options. Names come from the service manager, with the connection of the command being typed: one
attempt within seconds, and nothing is completed if it fails, since a shell shows no errors while the user types.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from occi_service import client

_VARIABLE: Final = "_ARCHELON_COMPLETE"
#: Seconds for one request; the user waits meanwhile.
_PATIENCE: Final = 2.0
#: Instances to ask for: those of one request.
_MOST: Final = 100
#: Names that mean nothing else to a shell, whatever the service manager returns.
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._/-]+=?")
#: Click's script for bash appends a space to everything, also to `name=`.
_NO_SPACE: Final = '    [[ "${COMPREPLY[0]-}" == *= ]] && compopt -o nospace\n\n    return 0\n'

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
#: Yields names, each with a description.
Names = Callable[["client.Client", click.Context, str], Iterable[tuple[str, str]]]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands in SHELL.

    Load it at the start of the shell, for example in ~/.bashrc: eval "$(archelon completion bash)".
    """
    from .main import archelon

    found = get_completion_class(shell)
    assert found is not None
    script = found(archelon, {}, "archelon", _VARIABLE).source()
    if shell == "bash":
        script = script.replace("    return 0\n", _NO_SPACE, 1)
    click.echo(script)


def _asking(names: Names) -> Completer:
    """Return a completer that asks the service manager."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from archelon_core.control_characters import escaped

        try:
            with _connected(context) as manager:
                return [
                    CompletionItem(name, help=escaped(" ".join(text.split())) or None)
                    for name, text in names(manager, context, incomplete)
                    if name.startswith(incomplete) and _HARMLESS.fullmatch(name)
                ]
        except Exception:  # noqa: BLE001 - whatever it is, the user is typing and the command itself will report it
            return []

    return complete


@contextlib.contextmanager
def _connected(context: click.Context) -> Iterator[client.Client]:
    import os
    from pathlib import Path

    from occi_service import client

    from .connection import find

    given: dict[str, Any] = {name: context.params.get(name) for name in ("url", "token_file", "state")}
    role = context.params.get("role") or "tenant"
    found = find(**given, role=role, environ=os.environ, here=Path.cwd())
    timeout = client.Timeout(connect=_PATIENCE, read=_PATIENCE, total=_PATIENCE)
    with found.open() as manager:
        yield manager.using(timeout=timeout, retry=client.Retry(attempts=1))


def _services(manager: client.Client, _context: click.Context, _incomplete: str) -> Iterator[tuple[str, str]]:
    from .lookup import services

    yield from [(each.term, each.title) for each in services(manager)]


def _instances(manager: client.Client, _context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    from .lookup import instances

    for entity in itertools.islice(instances(manager), _MOST):
        path, term = entity.location, entity.kind.rpartition("#")[2]
        yield path if incomplete.startswith("/") else path.rpartition("/")[2], entity.title or term


def _attributes(manager: client.Client, context: click.Context, _incomplete: str) -> Iterator[tuple[str, str]]:
    from .lookup import action_of, instance_at, service_named
    from .values import given_by_callers

    service, action = context.params.get("service"), context.params.get("action")
    name = str(context.params.get("name"))
    if action is not None:
        wanted = action_of(manager.get(instance_at(manager, name)), action)
        declared = next(each for each in manager.categories() if each.type_id == wanted)
    else:
        declared = service_named(manager, service or manager.get(instance_at(manager, name)).kind)
    for each, definition in given_by_callers(declared):
        yield f"{each}=", definition.description


def _actions(manager: client.Client, context: click.Context, _incomplete: str) -> Iterator[tuple[str, str]]:
    from .lookup import instance_at

    entity = manager.get(instance_at(manager, context.params["name"]))
    yield from [(each.rpartition("#")[2], "") for each in entity.actions]


#: Completers of arguments: terms of services, instances, `attribute=`, actions.
services: Final = _asking(_services)
instances: Final = _asking(_instances)
attributes: Final = _asking(_attributes)
actions: Final = _asking(_actions)
