"""Verifies that nothing of an instance is left: no process, no port, no row except its history.

It bypasses the services and checks the machine's processes, the port allocator and both databases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ..state_directory import StateDirectory

#: Paths that remain: bundles and services outlive instances; records and audits are their history.
_KEPT: Final = ("/published/", "/record/", "/bundle/", "/service/", "/disposal/")
#: Recurring work of the services, and the expiry of records and audits.
RECURRING: Final = (
    "instance.counts",
    "work.retention",
    "disposal.sweep",
    "disposal.instance",
    "deploy.retention",
    "deploy.watch",
    "bundle.retention",
    "record.expiry",
    "catalogue.look",
    "catalogue.entry",
    "design.catalogue",
    "design.unclaimed",
    # Checks some time after an order whether the instance exists.
    "delegation.unclaimed",
)


def left(state: StateDirectory) -> list[str]:
    """Describe everything that is left. Call it when no instance exists."""
    return [*_on_the_machine(state), *_in_databases(state)]


def _on_the_machine(state: StateDirectory) -> Iterator[str]:
    import psutil

    from cloud_controller.platforms.local.hosts import SHARED
    from cloud_controller.platforms.local.launcher import Launcher
    from cloud_controller.platforms.local.orders import HOSTS
    from cloud_controller.platforms.local.port_allocator import PortAllocator

    regions = state.cloud / "regions"
    for region in sorted(each.resolve() for each in regions.iterdir()) if regions.is_dir() else []:
        # A host that all tenants share stays, as part of the installation, but serves nothing.
        shared = list((region / "instances" / HOSTS).glob(f"{SHARED}-*"))
        kept = {f"{HOSTS}/{host.name}" for host in shared}
        yield from [str(file.relative_to(region)) for host in shared for file in _files_of_instances(host)]
        yield from [f"directory of {name}" for name in Launcher(region).names() if str(name) not in kept]
        for number, (owner, name) in PortAllocator(region, numbers=range(1, 65536)).allocated("").items():
            if owner not in kept:
                yield f"port {number} ({name}) of {owner}"
        # By working directory, to find processes that the launcher does not know.
        inside = str(region / "instances")
        for process in psutil.process_iter(["pid", "cwd", "name"]):
            directory = str(process.info["cwd"] or "")
            if directory.startswith(inside) and not any(Path(directory).is_relative_to(host) for host in shared):
                yield f"process {process.info['pid']} ({process.info['name']})"


def _files_of_instances(host: Path) -> Iterator[Path]:
    """The files of instances in the directory of a host."""
    for directory in ("members", "work/orders", "work/states", "work/logs"):
        yield from (host / directory).glob("*")


def _in_databases(state: StateDirectory) -> Iterator[str]:
    for service, tables in (
        ("service-manager", {"sm_instances": "path", "sm_invocations": "id"}),
        ("cloud-controller", {"cloud_objects": "path", "cloud_delegations": "instance", "cloud_notices": "key"}),
    ):
        with _query(state.database(service)) as rows:
            for table, column in tables.items():
                for (key,) in rows(f"SELECT {column} FROM {table}"):  # nosec  # noqa: S608 - our own names
                    if not str(key).startswith(_KEPT):
                        yield f"row {key} of {table}"
            for (identifier,) in rows("SELECT identifier FROM occi_entities"):
                if not str(identifier).startswith(_KEPT):
                    yield f"entity {identifier} of the {service}"
            for topic, key in rows("SELECT topic, key FROM work WHERE outcome IS NULL"):
                if topic not in RECURRING:
                    yield f"work {topic} on {key} of the {service}"


@contextlib.contextmanager
def _query(url: str) -> Iterator[Callable[[str], Sequence[Any]]]:
    """A function that runs a statement in a database and returns the rows."""
    import sqlalchemy as sa

    from archelon_core.database import Database

    database = Database(url, pool_size=1)
    try:
        with database.read() as connection:
            yield lambda statement: connection.execute(sa.text(statement)).all()
    finally:
        database.close()
