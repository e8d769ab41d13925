"""Runs a bundle's orchestrator: `python -m sdk.serve [directory]`, told by its environment whose it is and where to listen.

`HOST` and `PORT` are the launcher's, the `ARCHELON_…` of `archelon_api.orchestrator` the service manager's. One process,
with gunicorn's worker in it, holds everything. Where it is killed, the platform starts it again, as every container; it renews
its tokens, and is activated again. A bundle that cannot be run answers all the same: what is wrong with it is reported with the
first phase.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from wsgiref.types import WSGIApplication

from archelon_core import logs, redaction
from archelon_core.http import gunicorn_worker
from archelon_core.version import __version__

from .settings import ENV_TOKEN, Settings


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM, and end this process. Raises SystemExit where the environment is not right."""
    given = sys.argv[1:] if arguments is None else arguments
    # Until gunicorn has handlers of its own: a container's first process ends by no signal without one. `container` holds
    # back what comes before.
    signal.signal(signal.SIGTERM, _on_end)
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
        # It listens by now: who connects while this is imported waits for it.
        from .runtime import app

        made = app.application(settings)
        # What is imported stays: no collection looks through it again.
        gc.collect()
        gc.freeze()
        return made

    try:
        gunicorn_worker.serve_alone(
            load,
            bind=settings.bind,
            server=gunicorn_worker.server_field("archelon-sdk", __version__),
            threads=4,
            graceful_timeout=5,
            # Who calls, calls seldom; and the end of this process waits for open connections.
            keep_alive=1,
        )
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    _end(0)


def _end(status: int) -> None:
    """End without taking the interpreter apart, which takes longer than all else at the end, and a disposal waits for it."""
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _on_end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
