"""The fake cloud's process: `python -m tests.fakes.server '<JSON>'` prints a line when it is ready.

Each request passes the faults, the journal, and the fake state's lock. Besides the modules (`/design`, `/deploy`, …) and the
orchestrators (`/orchestrators/<instance>`) it serves to tests, without tokens: `/_journal`, `/_state`, `/_faults`, `/_settings`,
`/_crash/<instance>`.

It ends with its standard input, so that it never outlives a test run.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

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
from archelon_core.http import gunicorn_worker

from .faults import Fault
from .settings import Settings
from .state import FakeState

_MAX_BODY: Final = 64 << 20
_ORCHESTRATOR: Final = re.compile(r"/orchestrators/([0-9a-f-]{36})(/.*)")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


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
    """The WSGI application."""

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
        answer = self._serve(environ, route)
        start_response(answer.status, answer.headers)
        return [answer.body]

    # requests of the service manager ----------------------------------------------------------------------------------

    def _serve(self, environ: WSGIEnvironment, route: _Route) -> _Answer:
        begun = time.monotonic()
        method = environ["REQUEST_METHOD"]
        action = (urllib.parse.parse_qs(environ.get("QUERY_STRING", "")).get("action") or [None])[0]
        path = f"/{route.instance}{route.path}" if route.module == "orchestrator" else route.path
        faults = self._state.faults.take(route.module, method, path, action)
        body = _read_body(environ)
        status: int | None = None
        kinds = [each.kind for each in faults]
        try:
            self._hold("delay", faults, route)
            if "drop_before" in kinds:
                raise _cut()
            refused = next((each for each in faults if each.kind == "status"), None)
            answer = _refusal(refused) if refused is not None else self._answer(environ, route, faults)
            status = int(answer.status[:3])
            self._hold("delay_after", faults, route)
            if "drop_after" in kinds:
                raise _cut()
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
                faults=kinds,
            )
        return answer

    def _hold(self, kind: str, faults: tuple[Fault, ...], route: _Route) -> None:
        """Apply the delays of a kind, and record that a request is held."""
        for fault in faults:
            if fault.kind == kind:
                where = {"module": route.module, "path": route.path}
                self._state.journal.effect("request held", route.instance, kind=kind, **where)
                self._state.faults.pause(fault.seconds or 0)

    def _answer(self, environ: WSGIEnvironment, route: _Route, faults: tuple[Fault, ...]) -> _Answer:
        answer = _Answer()
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = route.mount, route.path
        with self._state.lock:
            self._state.active_faults = faults
            answer.body = b"".join(self._application(route)(environ, answer.start))
        return answer

    def _application(self, route: _Route) -> WSGIApplication:
        if route.module != "orchestrator":
            return self._modules[route.module]
        container = self._state.containers.get(route.instance)
        if container is None or container.process is None:
            # Like a closed port.
            raise _cut()
        return container.process.application

    # requests of tests ------------------------------------------------------------------------------------------------

    def _control(self, environ: WSGIEnvironment, start_response: StartResponse, path: str) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        handlers: dict[tuple[str, str], Callable[[WSGIEnvironment], Any]] = {
            ("GET", "/_journal"): self._entries,
            ("DELETE", "/_journal"): lambda _: self._state.journal.reset(),
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

    def _entries(self, environ: WSGIEnvironment) -> list[dict[str, Any]]:
        query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
        after, wait = int(query.get("after", ["0"])[0]), float(query.get("wait", ["0"])[0])
        return self._state.journal.entries(after, wait=min(wait, 30.0))

    def _exists(self) -> dict[str, Any]:
        state = self._state
        with state.lock:
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
                "stacks": state.module("deploy").registry.paths(deploy.STACK),
                "delegations": state.module("design").registry.paths(design.DELEGATION),
                "cpu_seconds": time.process_time(),
            }

    def _change_settings(self, environ: WSGIEnvironment) -> None:
        self._state.settings = dataclasses.replace(self._state.settings, **json.loads(_read_body(environ)))

    def _crash(self, environ: WSGIEnvironment) -> None:
        instance = environ["PATH_INFO"].removeprefix("/_crash/")
        with self._state.lock:
            container = self._state.containers.get(instance)
            if container is None or container.process is None:
                raise LookupError(f"no orchestrator of {instance!r} is running")
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
    # The last segment of a stack's or a catalogue entry's path is its own id.
    named = instance is not None and not below.startswith((deploy.STACK.location, design.SERVICE.location))
    return _Route(module, f"/{module}", below, instance[0] if instance is not None and named else "")


def _cut() -> BrokenPipeError:
    """Return an error that ends a request without a response: the server handles it like a disconnected client."""
    return BrokenPipeError(errno.EPIPE, "cut")


def _read_body(environ: WSGIEnvironment) -> bytes:
    """Read the body, before any lock is taken."""
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
    """Return a token's claims, without the token."""
    if identity is None:
        return None
    names = ("issuer", "subject", "audience", "tenant_id", "instance_id")
    return {name.removesuffix("_id"): getattr(identity, name) for name in names}


def _refusal(fault: Fault) -> _Answer:
    answer = _Answer()
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    message = fault.message or "a requested fault"
    document = {"error": {"status": fault.status, "title": "Fault", "message": message}}
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


def main() -> None:
    """Serve on the given port of the loopback address."""
    configuration = json.loads(sys.argv[1])
    address = f"127.0.0.1:{configuration['port']}"

    def load() -> WSGIApplication:
        state = FakeState(Settings(**configuration["settings"]), f"http://{address}")
        threading.excepthook = lambda failed: state.record_error(failed.exc_value or failed.exc_type())
        threading.Thread(target=_end_with_input, name="input", daemon=True).start()
        print("ready", flush=True)
        return Cloud(state, configuration["keys"])

    limits = gunicorn_worker.ConnectionLimits(body=_MAX_BODY, connections=4000, per_address=4000)
    options: Any = {"threads": 48, "keep_alive": 60, "graceful_timeout": 1}
    gunicorn_worker.serve_alone(load, bind=address, server="fake", limits=limits, **options)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
