"""Orders as documents, and the disposal of several instances: what `archelon instance create`, `export` and `delete` do.

An order's document contains what another `create` needs: service, title, region, and the attributes that the tenant has set.
Secrets are listed by name and filled in at the next `create`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final

import click

from archelon_api import names
from archelon_api import service_manager as wire
from occi_service import client
from occi_service.client import CategoryDocument

from .errors import CommandError, Status, as_command_error
from .follow import follow
from .output import Output, for_terminal
from .values import is_secret

_MEMBERS: Final[Mapping[str, tuple[type, str]]] = {
    "service": (str, "text"),
    "title": (str, "text"),
    "region": (str, "text"),
    "attributes": (dict, "a mapping"),
    "secrets": (list, "a list of names"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """An order of an instance.

    Attributes:
        service: term or type.
        attributes: name to value, without secrets.
        secrets: names of the secret attributes that have to be given as well.
    """

    service: str
    title: str | None = None
    region: str | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    secrets: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """Return the order as a document, without empty members."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


def read_order(stream: BinaryIO) -> Order:
    """Read an order's document, in YAML or JSON. Raises CommandError."""
    from archelon_core.documents.problems import DocumentError
    from archelon_core.documents.reading import only_document, read_text, text_of
    from archelon_core.documents.tree import DocumentLimits, plain

    file = stream.name
    try:
        text = text_of(stream, file=file, limits=DocumentLimits())
        value: Any = plain(only_document(read_text(text, file=file), file))
    except DocumentError as error:
        raise CommandError("; ".join([str(each) for each in error.problems]), status=Status.USAGE) from None
    if not isinstance(value, dict) or not value.get("service"):
        raise CommandError(
            f"{file}: expected an order, with `service`; see `archelon instance export`", status=Status.USAGE
        )
    for name, given in value.items():
        if name not in _MEMBERS:
            raise CommandError(
                f"{file}: there is no member {name!r}; expected one of {', '.join(_MEMBERS)}", status=Status.USAGE
            )
        kind, words = _MEMBERS[name]
        if not isinstance(given, kind) or (
            name == "secrets" and not all(isinstance(each, str) for each in value[name])
        ):
            raise CommandError(f"{file}: {name} has to be {words}", status=Status.USAGE)
    return Order(**value)


def order_of(manager: client.Client, path: str, kind: CategoryDocument) -> Order:
    """Return the order that would make an instance with the same attributes.

    A collection shows no secret, so its copy of the instance is exported, and what it lacks is a secret.
    """
    whole = manager.get(path)
    identifier = whole.attributes[names.INSTANCE]
    listed = list(manager.list(kind.location or "/", attributes={names.INSTANCE: identifier}))
    if len(listed) != 1:
        raise CommandError(f"{path} is gone", status=Status.NOT_FOUND)
    shown = listed[0].attributes
    own = {
        name: definition
        for name, definition in kind.attributes.items()
        if definition.mutable and name not in wire.INSTANCE_ATTRIBUTES and not name.startswith("occi.core.")
    }
    return Order(
        kind.type_id,
        whole.title,
        shown.get(names.REGION),
        {
            name: shown[name]
            for name, definition in own.items()
            if name in shown and not is_secret(definition) and shown[name] != definition.default
        },
        [name for name in own if name in whole.attributes and name not in shown],
    )


def show_dry_run(kind: CategoryDocument, before: client.Entity | None, after: client.Entity, output: Output) -> None:
    """Print what an order would make or, of an instance as it was `before`, change. Secrets are not shown."""
    own = [name for name in after.attributes if name == names.REGION or name not in wire.INSTANCE_ATTRIBUTES]
    old: Mapping[str, Any] = {} if before is None else before.attributes
    own += [name for name in old if name not in after.attributes and name not in wire.INSTANCE_ATTRIBUTES]
    changes = {
        name: {"before": old.get(name), "after": after.attributes.get(name)}
        for name in own
        if old.get(name) != after.attributes.get(name)
    }
    for name, change in changes.items():
        if is_secret(kind.attributes.get(name)):
            change |= {side: None if value is None else "…" for side, value in change.items()}
    if output.as_json:
        output.document({"dry_run": True, "service": kind.type_id, "path": before.location if before else None,
                          "title": after.title, "changes": changes})  # fmt: skip
        return
    if before is None:
        click.echo(f"an instance of {kind.term} would be made", err=True)
    else:
        words = f"{before.location} would be changed" if changes else f"nothing of {before.location} would be changed"
        click.echo(words, err=True)
    if changes:
        columns = ["attribute", "after"] if before is None else ["attribute", "before", "after"]
        output.rows([{"attribute": name, **change} for name, change in changes.items()], columns, empty="")


# disposal ------------------------------------------------------------------------------------------------------------


def confirm(what: str, *, yes: bool) -> None:
    """Ask whether to dispose of something. Raises CommandError without a terminal, click.Abort if not confirmed."""
    import sys

    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(f"there is no terminal to confirm the disposal of {what}; give --yes", status=Status.USAGE)
    click.confirm(f"Dispose of {what}?", abort=True, err=True)


def delete_one(manager: client.Client, path: str, *, force: bool) -> None:
    """Request the disposal of an instance.

    Raises:
        CommandError: others are composed of it, and it is not forced.
        client.ClientError: any other refusal.
    """
    try:
        manager.delete(path, force=force)
    except client.ConflictError as error:
        if force or error.where == wire.LOCKED:
            raise
        raise CommandError(
            f"{error.message}; `archelon instance delete --force` disposes of it all the same", status=Status.CONFLICT
        ) from error


def delete_all(
    manager: client.Client, paths: Sequence[str], *, force: bool, timeout: float | None
) -> list[dict[str, Any]]:
    """Dispose of several instances, with progress on standard error; if one fails, the rest continues.

    An instance that others are composed of is refused until those are gone, so it is tried again as long as others go.

    Args:
        timeout: seconds to wait for each; None not to wait.

    Returns:
        Path and state (`destroy`, `gone`, `failed`) of each; if it failed, `error`.
    """
    states: dict[str, dict[str, Any]] = {}

    def note(path: str, state: str, error: Exception | None = None) -> None:
        states[path] = {"path": path, "state": state} | (
            {} if error is None else {"error": str(as_command_error(error))}
        )
        line = ": ".join([f"{path}  {state}", *([] if error is None else [states[path]["error"]])])
        click.echo(for_terminal(line), err=True)

    left = list(dict.fromkeys(paths))
    while left:
        refused: dict[str, CommandError] = {}
        for path in left:
            try:
                delete_one(manager, path, force=force)
            except client.NotFoundError:
                # It was part of one that is gone.
                note(path, "gone")
            except CommandError as error:
                refused[path] = error
            except client.ClientError as error:
                note(path, "failed", error)
            else:
                note(path, "destroy")
        gone = 0
        for path in left if timeout is not None else ():
            if path in refused or states[path]["state"] != "destroy":
                continue
            try:
                _await_gone(manager, path, timeout=timeout)
            except (client.ClientError, CommandError) as error:
                note(path, "failed", error)
            else:
                note(path, "gone")
                gone += 1
        left = list(refused)
        if not gone:
            for path, refusal in refused.items():
                note(path, "failed", refusal)
            break
    return [states[path] for path in dict.fromkeys(paths)]


def _await_gone(manager: client.Client, path: str, *, timeout: float | None) -> None:
    for observation in follow(manager, path, timeout=timeout):
        if observation.state == "fail":
            raise CommandError(f"{observation.message}; see `archelon instance events`")
