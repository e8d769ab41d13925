"""`archelon status`: services, instances and the platform in one table.

The platform is what can be reached from here without a token: the readiness of the service manager and, if its address is known,
of the cloud controller. Instances are counted; those that wait, have failed or are not healthy are listed as well.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import click

from archelon_api import service_manager as wire
from occi_service import client

from .connection import Connection, service_options
from .errors import Status
from .follow import SETTLED, watch_rows
from .instance_view import summary
from .lookup import instances, is_withdrawn, services
from .output import Output, output_option

_COLUMNS: Final = ("part", "name", "state", "health", "message")
#: Seconds until a service that does not respond counts as unreachable.
_PATIENCE: Final = 5.0


@click.command()
@click.option("--watch", is_flag=True, help="Print changes as they happen, until Ctrl-C.")
@service_options()
@output_option
def status(watch: bool, connection: Connection, output: Output) -> int:
    """Show services, instances and the platform in one table. Exits with 3 if a part of the platform is not ready."""
    with connection.open() as manager:

        def fetch() -> list[dict[str, Any]]:
            return [*_platform(connection), *_orders(manager)]

        if watch:
            watch_rows(fetch, output, _COLUMNS, key=("part", "name"), empty="")
        platform = list(_platform(connection))
        ready = all(each["state"] == "ready" for each in platform)
        # Without the service manager, the rest cannot be known.
        orders = list(_orders(manager)) if platform[0]["state"] != "unreachable" else []
    output.rows([*platform, *orders], _COLUMNS, empty="")
    return Status.DONE if ready else Status.UNREACHABLE


def _platform(connection: Connection) -> Iterator[dict[str, Any]]:
    for name, url in (("service manager", connection.url), ("cloud controller", connection.cloud_url)):
        if url is not None:
            state, reason = _readiness(url)
            yield _row("platform", name, state=state, message="; ".join([part for part in (url, reason) if part]))


def _readiness(url: str) -> tuple[str, str]:
    """Return whether a service is ready, and why not."""
    import urllib3

    try:
        answer = urllib3.request("GET", f"{url.rstrip('/')}/readyz", timeout=_PATIENCE, retries=False, redirect=False)
    except urllib3.exceptions.HTTPError as error:
        return "unreachable", str(error)
    if answer.status == 200:
        return "ready", ""
    try:
        checks = dict(json.loads(answer.data)["checks"])
    except (ValueError, KeyError, TypeError):
        return "not ready", f"status {answer.status} for /readyz"
    return "not ready", "; ".join([f"{name}: {reason}" for name, reason in checks.items() if reason != "ok"])


def _orders(manager: client.Client) -> Iterator[dict[str, Any]]:
    present = [summary(entity) for entity in instances(manager)]
    by_service = collections.defaultdict(list)
    for each in present:
        by_service[each["service"]].append(each)
    for service in services(manager):
        own = by_service[service.term]
        yield _row(
            "service",
            service.term,
            state="withdrawn" if is_withdrawn(service) else "published",
            health=_counts(own, "health"),
            message=_counts(own, "state") or "no instances",
        )
    yield _row("instances", "all", state=_counts(present, "state") or "none", health=_counts(present, "health"))
    for each in present:
        if each["state"] not in SETTLED or each["state"] == "fail" or each["health"] not in (None, wire.HEALTHS[0]):
            reasons = [str(each[name]) for name in ("message", "reason") if each[name]]
            since = f" since {each['since']}" if each["health"] and each["since"] else ""
            yield _row(
                "instance",
                each["path"],
                state=each["state"],
                health=f"{each['health'] or ''}{since}",
                message="; ".join(reasons),
            )


def _counts(rows: Iterable[dict[str, Any]], name: str) -> str:
    counted = collections.Counter([str(each[name]) for each in rows if each[name]])
    return ", ".join([f"{number} {value}" for value, number in counted.most_common()])


def _row(part: str, name: str, *, state: str, health: str = "", message: str = "") -> dict[str, Any]:
    return {"part": part, "name": name, "state": state, "health": health, "message": message}
