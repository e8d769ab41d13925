"""Serves the orchestrators of many instances within one process. Only our code runs here, so tenants can share it.

Each instance has its engine, its report queue, its tokens and its log; threads only while it works. Shared are connections,
loaded bundles and keys, none of which contain a tenant's data.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import logging
import os
import select
import sys
import threading
from collections.abc import Iterable
from concurrent import futures
from pathlib import Path
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

import bundles
from archelon_core import logs, redaction
from archelon_core.auth import PROBES, read_jwk_set, render_plain_error
from archelon_core.errors import NotFoundError, UnavailableError
from archelon_core.log_segments import LogSegments
from archelon_core.private_files import private_umask
from occi_service import client

from .. import serve
from ..errors import Failure
from ..runtime.app import Assembled, Shared, assemble, load_checked
from ..runtime.http import alive
from ..settings import Settings
from .directory import LOOK, WRITE_RETRY, HostDirectory, OrderError, Stamp, drain

_LOG: Final = logging.getLogger("archelon.host")
#: Instances that are started, or ended, at the same time.
_AT_ONCE: Final = 4
#: Threads for requests.
_THREADS: Final = 16
#: Bundles whose manifests are kept, in addition to those in use.
_BUNDLES: Final = 128


def main() -> None:
    """Serve the current directory's orders at `HOST` and `PORT` until SIGTERM, and end this process."""
    serve.handle_signals()
    private_umask()
    logs.configure(redaction.Redactor(), service="host", stream=sys.stdout)

    def load() -> SharedHost:
        host = SharedHost(Path())
        host.open()
        return host

    serve.run(load, bind=f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8080')}", threads=_THREADS)


class _LogStream:
    """The log of one instance; no file stays open, since most instances are idle."""

    def __init__(self, segments: LogSegments) -> None:
        self._segments = segments

    def write(self, line: str, /) -> None:
        self._segments.write(line.encode())
        self._segments.close()


@dataclasses.dataclass(frozen=True, slots=True)
class _Serving:
    """A running orchestrator, and the context of all its code, which leads to its log."""

    orchestrator: Assembled
    context: contextvars.Context


@dataclasses.dataclass(slots=True)
class _Hosted:
    """An instance: the order that is wanted and the one that was carried out, None for none."""

    instance: str
    wanted: Stamp | None = None
    present: Stamp | None = None
    busy: bool = False
    serving: _Serving | None = None


class SharedHost:
    """The orchestrators of one directory, as a WSGI application.

    Args:
        root: the host's directory.
    """

    def __init__(self, root: Path) -> None:
        self._directory = HostDirectory(root)
        self._shared = Shared(load=_load, keys=functools.lru_cache(16)(read_jwk_set))
        self._lock = threading.Lock()
        self._hosted: dict[str, _Hosted] = {}
        self._pool = futures.ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="host")
        self._bell = self._directory.bell()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="orders", daemon=True)

    def open(self) -> None:
        """Begin to serve. Requests for the instances ordered by now are answered from now on, if only with 503."""
        self._look()
        self._thread.start()

    def close(self) -> None:
        """End all orchestrators; their states stay as they are."""
        self._closed.set()
        self._bell.sendto(b"", self._bell.getsockname())
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        for hosted in self._hosted.values():
            self._end(hosted)
        self._bell.close()
        self._shared.clients.close()

    # orders -----------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        while not self._closed.is_set():
            written = self._directory.flush()
            for _ in poll.poll((LOOK if written else WRITE_RETRY) * 1000):
                drain(self._bell)
            try:
                self._look()
            except OSError as error:
                _LOG.warning("the orders cannot be listed: %s", error)

    def _look(self) -> None:
        orders = self._directory.orders()
        with self._lock:
            for instance in orders.keys() | self._hosted.keys():
                hosted = self._hosted.setdefault(instance, _Hosted(instance))
                hosted.wanted = orders.get(instance)
                if hosted.wanted != hosted.present and not hosted.busy:
                    hosted.busy = True
                    self._pool.submit(self._reconcile, hosted)

    def _reconcile(self, hosted: _Hosted) -> None:
        """Carry out the wanted order, and those that replace it in the meantime."""
        try:
            while True:
                with self._lock:
                    wanted = hosted.wanted
                    if wanted == hosted.present:
                        hosted.busy = False
                        if wanted is None:
                            del self._hosted[hosted.instance]
                        return
                self._end(hosted)
                if wanted is None:
                    self._directory.withdraw(hosted.instance)
                else:
                    self._start(hosted)
                hosted.present = wanted
        except Exception:  # noqa: BLE001 - logged, and the others continue
            # The next look tries again.
            _LOG.exception("instance %s: its order cannot be carried out", hosted.instance)
            hosted.busy = False

    def _start(self, hosted: _Hosted) -> None:
        digest = ""
        try:
            order = self._directory.read(hosted.instance)
            digest = order.digest
            settings = Settings.read(order.environment, order.bundle)
            if settings.instance != hosted.instance:
                raise ValueError(f"it is the order of {settings.instance}; the platform names each order's file")
            context = contextvars.copy_context()
            orchestrator = context.run(self._assembled, settings)
        except FileNotFoundError:
            # It is gone since it was listed.
            return
        except (OrderError, OSError, ValueError) as error:
            digest = error.digest if isinstance(error, OrderError) else digest
            _LOG.warning("instance %s cannot be served: %s", hosted.instance, error)
            self._directory.report(hosted.instance, "failed", digest, str(error))
            return
        hosted.serving = _Serving(orchestrator, context)
        self._directory.report(hosted.instance, "running", digest)
        context.copy().run(_begin, orchestrator)

    def _assembled(self, settings: Settings) -> Assembled:
        stream = _LogStream(self._directory.log(settings.instance))
        logs.write_to(stream, redaction.Redactor([settings.start_token]), service="orchestrator")
        return assemble(settings, self._shared)

    @staticmethod
    def _end(hosted: _Hosted) -> None:
        serving, hosted.serving = hosted.serving, None
        if serving is not None:
            # Every wait and every request of its work ends within a minute.
            while not serving.orchestrator.engine.close():
                _LOG.info("instance %s has not ended its work yet", hosted.instance)
            serving.orchestrator.report_queue.close()

    # requests ---------------------------------------------------------------------------------------------------------

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI: pass a request for `/<instance>/…` to the instance's orchestrator."""
        path = environ.get("PATH_INFO", "")
        if path in PROBES:
            return alive(start_response)
        instance, _, rest = path.removeprefix("/").partition("/")
        hosted = self._hosted.get(instance)
        if hosted is None:
            error = NotFoundError("this host serves no such instance", "path")
            return render_plain_error(environ, start_response, error)
        serving = hosted.serving
        if serving is None:
            return render_plain_error(
                environ, start_response, UnavailableError("the orchestrator is not running", "path", retry_after=1)
            )
        environ["SCRIPT_NAME"] = f"{environ.get('SCRIPT_NAME', '')}/{instance}"
        environ["PATH_INFO"] = f"/{rest}"
        return serving.context.copy().run(serving.orchestrator.application, environ, start_response)


def _begin(orchestrator: Assembled) -> None:
    orchestrator.engine.open()
    try:
        # Here, and not in the queue's thread: so only a few begin at the same time.
        orchestrator.report_queue.renew()
    except client.ClientError as error:
        logging.getLogger("archelon.sdk").warning("service manager unavailable: %s", error)
    orchestrator.report_queue.open()


@functools.lru_cache(_BUNDLES)
def _load(directory: Path) -> bundles.Bundle:
    """Return a bundle; its directory never changes. Raises Failure: it has code, which must not run here."""
    bundle = load_checked(directory)
    if bundle.has_code:
        raise Failure("its bundle has code, and needs a host or a process of its own; order it again", permanent=True)
    return bundle
