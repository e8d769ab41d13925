"""Runs a bundle's orchestrator: `python -m sdk.serve [directory]`, told by its environment whose it is and where to listen.

`HOST` and `PORT` are the launcher's, the `ARCHELON_…` of `occi_service.wire.orchestrator` the service manager's. One gunicorn
worker holds everything; where it is killed, a new one starts, renews its tokens, and is activated again. A bundle that cannot be
run answers all the same: what is wrong with it is reported with the first phase.

The process that watches over the worker imports as little as it can; `assembly` is imported in the worker.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from wsgiref.types import WSGIApplication

from occi_service import logs, redaction, server
from occi_service.version import __version__

from .settings import ENV_TOKEN, Settings

__all__ = ["Settings", "main"]


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM. Raises SystemExit."""
    given = sys.argv[1:] if arguments is None else arguments
    # Until gunicorn has handlers of its own: a container's first process ends by no signal without one. `container` holds
    # back what comes before.
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    try:
        settings = Settings.read(os.environ, Path(given[0] if given else "."))
    except ValueError as error:
        raise SystemExit(f"sdk.serve: {error}") from None
    redactor = redaction.Redactor([settings.start_token])
    logs.configure(redactor, service="orchestrator")
    # Nothing that the author runs sees the start token.
    os.environ.pop(ENV_TOKEN, None)

    def load() -> WSGIApplication:
        from . import assembly

        return assembly.application(settings)

    server.serve(
        load,
        bind=settings.bind,
        server=server.server_field("archelon-sdk", __version__),
        workers=1,
        threads=4,
        share_metrics=False,
        graceful_timeout=5,
        # Who calls, calls seldom; and the end of this process waits for open connections.
        keep_alive=1,
    )


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
