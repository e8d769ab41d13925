"""Commands that run the services, configured by the environment or by the file that ARCHELON_CONFIG names."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from archelon_core.private_files import private_umask

from .errors import CommandError, Status

Command = TypeVar("Command", bound=Callable[..., Any])

_SERVICES = ("service-manager", "cloud-controller")
_module = click.option("--module", "modules", multiple=True, help="Only this module; may be repeated.")
_of = click.option("--of", "service", type=click.Choice(_SERVICES), required=True, help="The service.")


def _process(command: Command) -> Command:
    """Decorate a service command: it reports invalid settings."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        private_umask()
        # This variable of the command line may be set in the user's shell; it is not a setting of a service.
        os.environ.pop("ARCHELON_TOKEN", None)
        try:
            return command(*arguments, **options)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else Status.DONE if ended.code is None else Status.FAILED
        except ValueError as error:
            raise CommandError(str(error), status=Status.USAGE) from error

    return wrapped  # type: ignore[return-value]


@click.command(short_help="Run the service manager's web server.")
@_process
def service_manager() -> int:
    """Run the service manager's web server until SIGTERM; `archelon worker --of service-manager` does its work."""
    from service_manager.__main__ import main

    return main(["web"])


@click.command()
@_module
@_process
def cloud_controller(modules: tuple[str, ...]) -> Any:
    """Run all or some of the cloud controller's modules until SIGTERM; `archelon worker` does their work."""
    from cloud_controller.app import web

    return web.serve(_prepare_cloud_controller("cloud-controller-web"), modules or web.MODULES)


@click.command()
@_of
@_module
@click.option("--port", type=click.IntRange(0, 65535), help="Port of /healthz, /readyz and /metrics.")
@click.option("--host", help="Address of that port; default 127.0.0.1.")
@_process
def worker(service: str, modules: tuple[str, ...], port: int | None, host: str | None) -> int:
    """Run a worker of the service manager or the cloud controller until SIGTERM. Any number may run, on any machine."""
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

    settings = _prepare_cloud_controller("cloud-controller-worker")
    return work.run(settings, modules or web.MODULES, port=port, host=host or "127.0.0.1")


@click.group()
def db() -> None:
    """Manage a database schema."""


@db.command()
@_of
@click.option("--url", help="The database; default that of the service's settings.")
def upgrade(service: str, url: str | None) -> None:
    """Upgrade the schema to this version. Services do so when they start; it is safe to repeat."""
    if url is None:
        if service == "service-manager":
            from service_manager.settings import ServiceManagerSettings

            url = ServiceManagerSettings.load().database_url.get_secret_value()
        else:
            from cloud_controller.settings import CloudControllerSettings

            url = CloudControllerSettings.load().database_url.get_secret_value()
    _upgrade(service, url)
    click.echo(f"the schema of the {service} is up to date")


def _upgrade(service: str, url: str) -> None:
    from archelon_core.database import Database
    from occi_service.registry.schema import SchemaError
    from occi_service.registry.schema import upgrade as upgrade_schema

    if service == "service-manager":
        from service_manager.app import MIGRATIONS
    else:
        from cloud_controller.app.dependencies import MIGRATIONS
    try:
        database = Database(url)
    except ValueError as error:
        raise CommandError(str(error), status=Status.USAGE) from error
    try:
        upgrade_schema(database, MIGRATIONS)
    except SchemaError as error:
        raise CommandError(f"the database is not the {service}'s, or is of a later version: {error}") from error
    finally:
        database.close()


def _prepare_cloud_controller(process: str) -> Any:
    """Load the settings, configure logging and upgrade the schema."""
    from archelon_core import logs
    from archelon_core.redaction import Redactor
    from cloud_controller.settings import CloudControllerSettings

    settings = CloudControllerSettings.load()
    logs.configure(Redactor(settings.secret_values()), level=settings.log_level, service=process)
    _upgrade("cloud-controller", settings.database_url.get_secret_value())
    return settings
