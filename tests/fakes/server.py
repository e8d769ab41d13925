"""The stand-in's process: `python -m tests.fakes.server '<JSON>'` prints one line of JSON with its URL when it is ready.

One gunicorn worker with a bounded pool of threads holds everything in memory. Around each request: faults, the books, and
the fake state's lock. Beside the modules (`/design`, `/deploy`, `/disposal`) and the orchestrators
(`/orchestrators/<instance>`) there are, for tests, without tokens: `/_books`, `/_state`, `/_faults`, `/_settings`,
`/_crash/<instance>`.

It ends when its standard input does, so that it outlives no test run, however that ends.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import gunicorn.app.base

from archelon_api import deploy, design, tokens
from archelon_api.names import GENERATION
from archelon_core.auth import (
    IDENTITY,
    Authentication,
    Identity,
    MemoryRevocations,
    SignedTokens,
    TokenCache,
    read_jwk_set,
)

from .faults import Fault
from .settings import Settings
from .state import Ask, FakeState

__all__ = ["Cloud", "main"]

_MAX_BODY: Final = 64 << 20
_ORCHESTRATOR: Final = re.compile(r"/orchestrators/([0-9a-f-]{36})(/.*)")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_AROUND: Final = ("status", "drop_before", "drop_after", "delay", "delay_after")


class _Cut(Exception):  # noqa: N818 - no error: a request that ends without an answer
    """The connection is to be cut."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Route:
    module: str
    mount: str
    path: str
    instance: str


@dataclasses.dataclass(slots=True)
class _Answer:
    status: str = ""
    headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    body: bytes = b""

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.status, self.headers = status, headers
        return None


class Cloud:
    """WSGI."""

    def __init__(self, state: FakeState, keys: str) -> None:
        self._state = state
        verifier = SignedTokens(
            read_jwk_set(keys),
            audiences=[tokens.AUDIENCE_CLOUD_CONTROLLER],
            revocations=MemoryRevocations(time.time),
            clock=time.time,
        )
        cache = TokenCache(time.time)
        self._modules: dict[str, WSGIApplication] = {
            name: Authentication(state.module(name), verifier, cache=cache) for name in state.kinds
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/_"):
            return self._control(environ, start_response, path)
        route = _route(path)
        if route is None:
            return _json(start_response, "404 Not Found", {"error": f"nothing is mounted at {path[:200]}"})
        try:
            answer = self._serve(environ, route)
        except _Cut:
            connection: socket.socket = environ["gunicorn.socket"]
            connection.shutdown(socket.SHUT_RDWR)
            # The server finds the connection gone.
            raise BrokenPipeError(errno.EPIPE, "cut") from None
        start_response(answer.status, answer.headers)
        return [answer.body]

    # requests of the service under test -------------------------------------------------------------------------------

    def _serve(self, environ: WSGIEnvironment, route: _Route) -> _Answer:
        begun = time.monotonic()
        method = environ["REQUEST_METHOD"]
        action = (urllib.parse.parse_qs(environ.get("QUERY_STRING", "")).get("action") or [None])[0]
        path = f"/{route.instance}{route.path}" if route.module == "orchestrator" else route.path
        faults = self._state.faults.take(route.module, method, path, action)
        body = _read_body(environ)
        ask = Ask(tuple([each for each in faults if each.kind not in _AROUND]))
        status: int | None = None
        try:
            answer = self._around(environ, route, faults, ask)
            status = int(answer.status[:3])
            self._after(faults)
        finally:
            self._state.journal.request(
                module=route.module,
                method=method,
                path=path,
                action=action,
                instance=route.instance,
                generation=_generation_in(body),
                status=status,
                answered=sys.exc_info()[0] is None,
                seconds=time.monotonic() - begun,
                token=_token_document(environ.get(IDENTITY)),
                subject_token=bool(environ.get("HTTP_X_SUBJECT_TOKEN")),
                faults=[each.kind for each in faults],
            )
        return answer

    def _around(self, environ: WSGIEnvironment, route: _Route, faults: tuple[Fault, ...], ask: Ask) -> _Answer:
        for fault in faults:
            if fault.kind == "delay":
                self._held(route, fault)
                self._state.faults.pause(fault.seconds or 0)
        for fault in faults:
            if fault.kind == "drop_before":
                raise _Cut
            if fault.kind == "status":
                return _refusal(fault)
        answer = _Answer()
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = route.mount, route.path
        with self._state.lock:
            self._state.ask = ask
            application = self._application(route)
            answer.body = b"".join(application(environ, answer.start))
        for fault in faults:
            if fault.kind == "delay_after":
                self._held(route, fault)
        return answer

    def _after(self, faults: tuple[Fault, ...]) -> None:
        for fault in faults:
            if fault.kind == "delay_after":
                self._state.faults.pause(fault.seconds or 0)
        if any(fault.kind == "drop_after" for fault in faults):
            raise _Cut

    def _held(self, route: _Route, fault: Fault) -> None:
        """So that a test knows that a request waits, and where."""
        self._state.journal.effect(
            "request held", route.instance, module=route.module, path=route.path, kind=fault.kind
        )

    def _application(self, route: _Route) -> WSGIApplication:
        if route.module != "orchestrator":
            return self._modules[route.module]
        container = self._state.containers.get(route.instance)
        if container is None or container.process is None:
            # Nothing listens there.
            raise _Cut
        return container.process.application

    # requests of the test ---------------------------------------------------------------------------------------------

    def _control(self, environ: WSGIEnvironment, start_response: StartResponse, path: str) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        handlers: dict[tuple[str, str], Callable[[WSGIEnvironment], Any]] = {
            ("GET", "/_books"): self._books,
            ("DELETE", "/_books"): lambda _: self._state.journal.reset(),
            ("GET", "/_state"): lambda _: self._exists(),
            ("GET", "/_faults"): lambda _: self._state.faults.document(),
            ("POST", "/_faults"): lambda each: self._state.faults.add(json.loads(_read_body(each))),
            ("DELETE", "/_faults"): lambda _: self._state.faults.clear(),
            ("POST", "/_settings"): self._change_settings,
        }
        handler = handlers.get((method, path))
        if method == "POST" and path.startswith("/_crash/"):
            handler = self._crash
        if handler is None:
            return _json(start_response, "404 Not Found", {"error": f"no {method} of {path[:200]}"})
        try:
            found = handler(environ)
        except (ValueError, TypeError, LookupError, re.error) as error:
            return _json(start_response, "400 Bad Request", {"error": str(error)})
        return _json(start_response, "200 OK", found)

    def _books(self, environ: WSGIEnvironment) -> list[dict[str, Any]]:
        query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
        after, wait = int(query.get("after", ["0"])[0]), float(query.get("wait", ["0"])[0])
        return self._state.journal.entries(after, wait=min(wait, 30.0))

    def _exists(self) -> dict[str, Any]:
        state = self._state
        with state.lock:
            stacks, delegations = state.module("deploy").registry, state.module("design").registry
            return {
                "applications": {
                    instance: {
                        "state": each.state,
                        "message": each.message,
                        "tenant": each.order.tenant,
                        "generation": each.order.generation,
                        "runs": each.order.runs,
                        "starts": each.starts,
                        "orchestrator": each.process.document() if each.process is not None else None,
                    }
                    for instance, each in state.containers.items()
                },
                "stacks": stacks.paths(deploy.STACK),
                "bundles": stacks.paths(deploy.BUNDLE),
                "delegations": delegations.paths(design.DELEGATION),
                "services": delegations.paths(design.SERVICE),
                "disposed": sorted(state.disposed),
                "settings": state.settings.document(),
                "cpu_seconds": time.process_time(),
            }

    def _change_settings(self, environ: WSGIEnvironment) -> dict[str, Any]:
        self._state.settings = self._state.settings.changed(json.loads(_read_body(environ)))
        return self._state.settings.document()

    def _crash(self, environ: WSGIEnvironment) -> None:
        instance = environ["PATH_INFO"].removeprefix("/_crash/")
        with self._state.lock:
            container = self._state.containers.get(instance)
            if container is None or container.process is None:
                raise LookupError(f"no orchestrator of {instance!r} is up")
            container.crash()


def _route(path: str) -> _Route | None:
    found = _ORCHESTRATOR.fullmatch(path)
    if found:
        return _Route("orchestrator", f"/orchestrators/{found[1]}", found[2], found[1])
    _, module, *_ = path.split("/", 2)
    if module not in FakeState.kinds:
        return None
    below = path.removeprefix(f"/{module}") or "/"
    instance = _UUID.search(below)
    # A stack's and a catalogue entry's last part is an id of its own.
    named = instance is not None and not below.startswith((deploy.STACK.location, design.SERVICE.location))
    return _Route(module, f"/{module}", below, instance[0] if instance is not None and named else "")


def _read_body(environ: WSGIEnvironment) -> bytes:
    """The body, read before any lock is taken."""
    body: bytes = environ["wsgi.input"].read(_MAX_BODY)
    environ["wsgi.input"] = io.BytesIO(body)
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    return body


def _generation_in(body: bytes) -> Any:
    if not body.startswith(b"{"):
        return None
    try:
        document = json.loads(body)
    except ValueError:
        return None
    attributes = document.get("attributes")
    return attributes.get(GENERATION) if isinstance(attributes, dict) else None


def _token_document(identity: Identity | None) -> dict[str, Any] | None:
    """What a token says of its holder, without the token."""
    if identity is None:
        return None
    return {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "audience": identity.audience,
        "tenant": identity.tenant_id,
        "instance": identity.instance_id,
    }


def _refusal(fault: Fault) -> _Answer:
    answer = _Answer()
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    document = {
        "error": {"status": fault.status, "title": "Fault", "message": fault.message or "a fault was asked for"}
    }
    answer.body = json.dumps(document).encode()
    answer.start(
        f"{fault.status} Fault",
        [("Content-Type", "application/occi+json"), ("Content-Length", str(len(answer.body))), *headers.items()],
    )
    return answer


def _json(start_response: StartResponse, status: str, document: Any) -> list[bytes]:
    body = json.dumps(document).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


# --- the process -----------------------------------------------------------------------------------------------------


class _Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]
    """gunicorn with one worker, on a socket that is bound already."""

    def __init__(self, configuration: dict[str, Any], listening: socket.socket) -> None:
        self._configuration = configuration
        host, port = listening.getsockname()
        self._url = f"http://{host}:{port}"
        # gunicorn makes a socket of its own of it, and closes this one.
        self._descriptor = listening.detach()
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": f"fd://{self._descriptor}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": self._configuration.get("threads", 48),
            "worker_connections": 4000,
            "backlog": 2048,
            "keepalive": 60,
            # A worker that is started anew would have forgotten everything.
            "timeout": 0,
            "loglevel": "warning",
            "control_socket_disable": True,
            "post_worker_init": lambda _: _ready(self._url),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        state = FakeState(Settings().changed(self._configuration.get("settings", {})), self._url)
        threading.excepthook = lambda failed: state.slip(failed.exc_value or failed.exc_type())
        return Cloud(state, self._configuration["keys"])


def _ready(url: str) -> None:
    threading.Thread(target=_end_with_input, name="input", daemon=True).start()
    print(json.dumps({"url": url}), flush=True)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Serve, on a free port of the loopback address or on the one that is given."""
    configuration = json.loads(sys.argv[1])
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", configuration.get("port", 0)))
    # The process leads a group of its own, which ends as one.
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    _Server(configuration, listening).run()


if __name__ == "__main__":
    main()
