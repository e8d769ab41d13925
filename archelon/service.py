"""`archelon service`, `publish` and `withdraw`: the services that can be ordered."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import completion
from .connection import Connection, service_options
from .errors import CommandError
from .output import Output, output_option

if TYPE_CHECKING:
    from occi_service import client


@click.group()
def service() -> None:
    """Show the services that can be ordered."""


@service.command("list")
@service_options()
@output_option
def list_services(connection: Connection, output: Output) -> None:
    """List the services: those that can be ordered, and those that are withdrawn and may still have instances."""
    from .lookup import is_withdrawn, services

    with connection.open() as manager:
        rows = [
            {
                "service": each.term,
                "state": "withdrawn" if is_withdrawn(each) else "published",
                "title": each.title,
                "type": each.type_id,
                "location": each.location,
            }
            for each in services(manager)
        ]
    output.rows(
        rows,
        ["service", "state", "title", "type"],
        wide=["location"],
        empty="no services; publish a bundle with `archelon publish`",
    )


@service.command()
@click.argument("name", shell_complete=completion.services)
@service_options()
@output_option
def show(name: str, connection: Connection, output: Output) -> None:
    """Show a service: its attributes, and the actions of its instances."""
    from archelon_api import service_manager as wire
    from occi_service.model import type_id

    from .lookup import is_withdrawn, service_named

    with connection.open() as manager:
        found = service_named(manager, name)
    attributes = [
        {
            "attribute": attribute,
            "type": given.type,
            "secret": given.secret,
            "who": "required" if given.required else "you may set it" if given.mutable else "the provider sets it",
            "default": given.default,
            "description": given.description,
        }
        for attribute, given in found.attributes.items()
        if not attribute.startswith("occi.core.")
        and attribute != wire.WITHDRAWN
        and (output.as_json or attribute not in wire.INSTANCE_ATTRIBUTES)
    ]
    # Only orchestrators use the actions between them and the service manager.
    own = (type_id(wire.REPORT), type_id(wire.RENEW))
    actions = [each.rpartition("#")[2] for each in found.actions if each not in own]
    state = "withdrawn" if is_withdrawn(found) else "published"
    if output.as_json and not output.columns:
        output.document({"type": found.type_id, "title": found.title, "state": state, "location": found.location,
                          "attributes": attributes, "actions": found.actions})  # fmt: skip
        return
    if output.for_people:
        fields = {"service": found.term, "state": state, "title": found.title, "type": found.type_id}
        output.fields({**fields, "actions": ", ".join(actions)})
    if not output.as_json:
        for each in attributes:
            each["type"] = f"{each['type']}, secret" if each["secret"] else each["type"]
    output.rows(
        attributes, ["attribute", "type", "who", "default", "description"], empty="the service declares no attributes"
    )


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--roll", is_flag=True, help="Update the existing instances to this bundle, one after another.")
@click.option(
    "--wait/--no-wait", default=True, help="Follow the roll until it ends; exits with 1 if it is not done then."
)
@click.option("--dry-run", is_flag=True, help="Check the bundle at the service manager, and publish nothing.")
@service_options("provider")
@output_option
def publish(directory: Path, roll: bool, wait: bool, dry_run: bool, connection: Connection, output: Output) -> None:
    """Publish a bundle as a service, or replace the published one of the same type."""
    import bundles

    bundle = bundles.Bundle.load(directory)
    packed = bundle.pack()
    if dry_run:
        with connection.open() as manager:
            _show_dry_run(manager, bundle.manifest.term, packed, output)
        return
    with connection.open() as manager:
        entry = offer(manager, packed)
        if roll:
            from archelon_api import service_manager as wire

            manager.act(entry, wire.ROLL.scheme + wire.ROLL.term)
    if connection.cloud_url is not None:
        await_entry(connection, bundle.manifest.type)
    output.line(
        f"{bundle.manifest.term} is published; order an instance with `archelon instance create {bundle.manifest.term}`",
        service=bundle.manifest.type,
        digest=packed.digest,
        entry=entry,
    )
    if roll and wait:
        from .rollout import await_end, check_done

        with connection.open() as manager:
            check_done(await_end(manager, entry))


def offer(manager: Any, packed: Any) -> str:
    """Upload a packed bundle and publish it; returns the path of the published entry."""
    from archelon_api import deploy, names
    from archelon_api import service_manager as wire

    manager.put_bytes(deploy.bundle_path(packed.digest), packed.archive, deploy.BUNDLE_MEDIA_TYPE)
    kind = wire.PUBLISHED.scheme + wire.PUBLISHED.term
    return str(manager.create(kind, {names.attribute("bundle.digest"): packed.digest}))


def _show_dry_run(manager: client.Client, term: str, packed: Any, output: Output) -> None:
    import json

    from archelon_api import deploy

    answer = manager.upload(
        f"{deploy.bundle_path(packed.digest)}?dry-run=true", packed.archive, deploy.BUNDLE_MEDIA_TYPE
    )
    found = json.loads(answer.body)
    words = {"new": "would be a new service", "replaced": "would be replaced", "unchanged": "would stay unchanged"}
    output.line(f"{term} {words[found['outcome']]}; the bundle is valid", dry_run=True, **found)


def await_entry(connection: Connection, service_type: str, *, seconds: float = 30.0) -> None:
    """Wait until the service manager has entered a service in design's catalogue, where other services find it.

    Raises:
        CommandError: the entry is missing after `seconds`.
        client.ClientError: design cannot be called.
    """
    from archelon_api import design

    deadline = time.monotonic() + seconds
    with connection.module("design") as catalogue:
        while not list(catalogue.list(design.SERVICE.location, attributes={design.SERVICE_TYPE: service_type})):
            if time.monotonic() > deadline:
                raise CommandError(
                    f"{service_type} is published and can be ordered, but after {seconds:.0f} s it is not in the catalogue, so "
                    "services that depend on it cannot find it; see the log of the service manager's worker"
                )
            time.sleep(0.1)


@click.command()
@click.argument("name", shell_complete=completion.services)
@service_options("provider")
@output_option
def withdraw(name: str, connection: Connection, output: Output) -> None:
    """Stop accepting orders for a service; its instances remain."""
    from archelon_api import names

    from .rollout import published_entry

    with connection.open() as manager:
        entry = published_entry(manager, name)
        manager.delete(entry.location)
    offered = str(entry.attributes[names.SERVICE])
    output.line(f"{offered} no longer accepts orders", service=offered, entry=entry.location)
