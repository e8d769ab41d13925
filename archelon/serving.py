"""The services as processes: each told by its environment, or the file that ARCHELON_CONFIG names, what to be."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import click

from archelon_core.private_files import private_umask

from .errors import CommandError, Status
from .supervision import end_with_parent

Command = TypeVar("Command", bound=Callable[..., Any])

_SERVICES = ("service-manager", "cloud-controller")
_module = click.option("--module", "modules", multiple=True, help="One of its modules alone; may be repeated.")
_of = click.option("--of", "service", type=click.Choice(_SERVICES), required=True, help="Whose.")


def _process(command: Command) -> Command:
    """Ends with the all-in-one that started it; wrong settings are a clear refusal."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        private_umask()
        end_with_parent(os.environ, interrupt=lambda: os.kill(os.getpid(), signal.SIGTERM))
        # The command line's own, which a person's shell may have: no setting of a service.
        os.environ.pop("ARCHELON_TOKEN", None)
        try:
            return command(*arguments, **options)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else Status.DONE if ended.code is None else Status.FAILED
        except ValueError as error:
            raise CommandError(str(error), status=Status.USAGE) from error

    return wrapped  # type: ignore[return-value]


@click.command(short_help="Serve the service manager's web.")
@_process
def service_manager() -> int:
    """Serve the service manager's web until SIGTERM; its work is done by `archelon worker --of service-manager`."""
    from service_manager.__main__ import main

    return main(["web"])


@click.command()
@_module
@_process
def cloud_controller(modules: tuple[str, ...]) -> Any:
    """Serve the cloud controller's modules, all or some, until SIGTERM; their work is done by `archelon worker`."""
    from cloud_controller.app import web
    from cloud_controller.settings import CloudControllerSettings

    settings = CloudControllerSettings.load()
    _log(settings, "cloud-controller-web")
    _upgrade("cloud-controller", settings.database_url.get_secret_value())
    return web.serve(settings, modules or web.MODULES)


@click.command()
@_of
@_module
@click.option("--port", type=click.IntRange(0, 65535), help="Port of /healthz, /readyz and /metrics.")
@click.option("--host", help="Address of that port; without it, 127.0.0.1.")
@_process
def worker(service: str, modules: tuple[str, ...], port: int | None, host: str | None) -> int:
    """Do the work of the service manager or of the cloud controller until SIGTERM. Any number may run, on any machine."""
    if service == "service-manager":
        if modules or port is not None or host is not None:
            raise CommandError(
                "--module, --port and --host are for the cloud controller; set ARCHELON_WORKER_PORT and ARCHELON_WORKER_HOST",
                status=Status.USAGE,
            )
        from service_manager.__main__ import main

        return main(["worker"])
    from cloud_controller.app import web
    from cloud_controller.app import worker as work
    from cloud_controller.settings import CloudControllerSettings

    settings = CloudControllerSettings.load()
    _log(settings, "cloud-controller-worker")
    _upgrade("cloud-controller", settings.database_url.get_secret_value())
    return work.run(settings, modules or web.MODULES, port=port, host=host or "127.0.0.1")


@click.group()
def db() -> None:
    """Bring a database's schema up to date."""


@db.command()
@_of
@click.option("--url", help="The database; the service's own settings without it.")
def upgrade(service: str, url: str | None) -> None:
    """Bring the schema to what this version needs. Services do so themselves at their start; running it again is harmless."""
    if url is None:
        if service == "service-manager":
            from service_manager.settings import ServiceManagerSettings

            url = ServiceManagerSettings.load().database_url.get_secret_value()
        else:
            from cloud_controller.settings import CloudControllerSettings

            url = CloudControllerSettings.load().database_url.get_secret_value()
    _upgrade(service, url)
    click.echo(f"the {service}'s schema is up to date")


def _upgrade(service: str, url: str) -> None:
    from alembic.util import CommandError as SchemaError

    from archelon_core.database import Database
    from occi_service.registry.schema import upgrade as bring

    if service == "service-manager":
        from service_manager.app import MIGRATIONS
    else:
        from cloud_controller.app.dependencies import MIGRATIONS
    try:
        database = Database(url)
    except ValueError as error:
        raise CommandError(str(error), status=Status.USAGE) from error
    try:
        bring(database, MIGRATIONS)
    except SchemaError as error:
        raise CommandError(f"the database is not the {service}'s, or of a later version: {error}") from error
    finally:
        database.close()


def _log(settings: Any, service: str) -> None:
    from archelon_core import logs
    from archelon_core.redaction import Redactor

    logs.configure(Redactor(settings.secret_values()), level=settings.log_level, service=service)
