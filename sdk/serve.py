"""Runs a bundle's orchestrator: `python -m sdk.serve [directory]`, configured by its environment.

The launcher sets `HOST` and `PORT`, the service manager the `ARCHELON_…` of `archelon_api.orchestrator`. One process contains
gunicorn's worker and everything else. If it is killed, the platform restarts it like any container; it renews its tokens, and is
activated again. A bundle that cannot be run responds too: its error is reported with the first phase.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn
from wsgiref.types import WSGIApplication

from archelon_core import logs, redaction
from archelon_core.http import gunicorn_worker
from archelon_core.version import __version__

from .settings import ENV_TOKEN, Settings

if TYPE_CHECKING:
    from .runtime.app import Shared


def main(
    arguments: list[str] | None = None, *, shared: Shared | None = None, loaded: Callable[[], None] | None = None
) -> None:
    """Serve until SIGTERM, and end this process. Raises SystemExit if the environment is invalid.

    Args:
        arguments: the command line's.
        shared: what the process was forked with.
        loaded: called when all is imported.
    """
    given = sys.argv[1:] if arguments is None else arguments
    handle_signals()
    try:
        settings = Settings.read(os.environ, Path(given[0] if given else "."))
    except ValueError as error:
        raise SystemExit(f"sdk.serve: {error}") from None
    redactor = redaction.Redactor([settings.start_token])
    logs.configure(redactor, service="orchestrator")
    # Code of the author must not see the start token.
    os.environ.pop(ENV_TOKEN, None)

    def load() -> WSGIApplication:
        # The socket is open: clients that connect during these imports wait.
        from .runtime import app

        made = app.application(settings, shared or app.Shared())
        if loaded is not None:
            loaded()
        return made

    run(load, bind=settings.bind, threads=4)


def handle_signals() -> None:
    """End at SIGTERM, until gunicorn installs its handlers. `container` blocks earlier ones.

    A container's first process ignores signals without a handler.
    """
    signal.signal(signal.SIGTERM, _on_end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))


def run(load: Callable[[], WSGIApplication], *, bind: str, threads: int) -> NoReturn:
    """Serve the application that `load` returns until SIGTERM, and end this process."""

    def loaded() -> WSGIApplication:
        made = load()
        # Imported objects live for ever: exclude them from later collections.
        gc.collect()
        gc.freeze()
        return made

    try:
        gunicorn_worker.serve_alone(
            loaded,
            bind=bind,
            server=gunicorn_worker.server_field("archelon-sdk", __version__),
            threads=threads,
            graceful_timeout=5,
            # Callers are few, and the end of this process waits for open connections.
            keep_alive=1,
        )
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    _end(0)


def _end(status: int) -> NoReturn:
    """End without the interpreter's teardown, which takes longest, and a disposal waits for it."""
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _on_end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
