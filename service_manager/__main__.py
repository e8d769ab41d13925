"""Run one process of the service manager: `python -m service_manager web` or `worker`, configured by the environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from archelon_core import logs
from archelon_core.http import server
from archelon_core.http.connection import ConnectionLimits
from archelon_core.http.gunicorn_worker import server_field
from archelon_core.private_files import private_umask
from archelon_core.redaction import Redactor
from archelon_core.settings import SettingsError
from archelon_core.version import __version__

from . import app
from .settings import ServiceManagerSettings

_USAGE = "usage: python -m service_manager web|worker"


def main(arguments: Sequence[str]) -> int:
    """Run until terminated. Returns the exit status: 2 for invalid settings or arguments."""
    if len(arguments) != 1 or arguments[0] not in ("web", "worker"):
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        settings = ServiceManagerSettings.load()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    private_umask()
    redactor = Redactor(settings.secret_values())
    logs.configure(redactor, level=settings.log_level, service=f"service-manager-{arguments[0]}")
    if arguments[0] == "web":
        server.serve(
            lambda: app.web(app.Dependencies.of(settings)),
            bind=settings.bind,
            server=server_field("archelon", __version__),
            workers=settings.web_processes,
            threads=settings.web_threads,
            limits=ConnectionLimits.of(settings, body=app.body_limit(settings)),
            trusted_proxies=[str(network) for network in settings.trusted_proxies],
        )
        return 0
    dependencies = app.Dependencies.of(settings)
    return server.run_worker(
        app.worker(dependencies),
        port=settings.worker_port,
        host=settings.worker_host,
        checks=[dependencies.database_check()],
        registry=dependencies.metrics,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
