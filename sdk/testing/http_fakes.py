"""A test bench: the environment of one orchestrator over real HTTP: its service manager, design, deploy and the other modules.

The cloud is that of `fake_cloud`. The fake service manager accepts `renew` and `report`, activates the orchestrator, and sends
phases and events. Everything listens on loopback, and ends with the context.
"""

from __future__ import annotations

import socketserver
import sys
import threading
import time
import uuid
import wsgiref.simple_server
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from cryptography.hazmat.primitives.asymmetric import ed25519
from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity, Kind, Resource

from archelon_api import names, tokens
from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from archelon_core.auth import MemoryRevocations, SigningKey, TenantId, TokenIssuer, VerificationKeys, write_jwk_set
from archelon_core.errors import UnavailableError, of_status
from occi_service import client
from occi_service.model import type_id
from occi_service.server.app import Application

from .fake_cloud import FakeCloud

SERVICE: Final = "http://schemas.example.org/occi/service#tested"
_MOUNT: Final = "/manager"


class Bench:
    """See the module; a context manager.

    Args:
        service: type identifier of the orchestrator's service.
        listen: address and port to listen at; port 0 takes a free one.
        url: where the bench is served as a WSGI application; it does not listen itself then.
        key: signs tokens; default: a new one.

    Attributes:
        cloud: the orchestrator's cloud.
        instance: id of its instance; tenant: the owner.
        reports: accepted reports, in order.
        renewals: number of renewals with the start token.
        away: number of next reports to answer with 503.
        refusals: statuses of the responses to the next reports; renewal_refusals: to the next renewals.
        cloud_away: number of next calls to the cloud to answer with 503.
        seconds: timeout of every wait.
    """

    def __init__(
        self,
        service: str = SERVICE,
        *,
        seconds: float = 15.0,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        url: str = "",
        key: SigningKey | None = None,
    ) -> None:
        self.service = service
        self.instance = str(uuid.uuid4())
        self.tenant = "tenant-1"
        self.seconds = seconds
        self.reports: list[dict[str, Any]] = []
        self.renewals = 0
        self.away = 0
        self.refusals: list[int] = []
        self.renewal_refusals: list[int] = []
        self.cloud_away = 0
        self.start_token = f"start-{uuid.uuid4().hex}"
        self._given: set[str] = set()
        self._changed = threading.Condition()
        self._key = key or SigningKey.of(ed25519.Ed25519PrivateKey.generate(), issuer="bench")
        self._issuer = TokenIssuer(
            self._key,
            keys=VerificationKeys([self._key.public]),
            instances=_NoInstances(),
            revocations=MemoryRevocations(time.time),
            clock=time.time,
        )
        self._server = None if url else Server(listen, self)
        self.url = self._server.url if self._server is not None else url
        self.cloud = FakeCloud(self.url)
        self.cloud.delegate(self.instance)
        self._manager = _ServiceManager(self)

    def __enter__(self) -> Bench:
        if self._server is not None:
            self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def environment(self) -> dict[str, str]:
        """The orchestrator's environment, without `HOST` and `PORT`."""
        return {
            wire.ENV_INSTANCE: self.instance,
            wire.ENV_SERVICE_MANAGER: f"{self.url}{_MOUNT}/{self.instance}",
            wire.ENV_DESIGN: f"{self.url}/design",
            wire.ENV_TOKEN: self.start_token,
            wire.ENV_KEYS: write_jwk_set([self._key.public]),
        }

    # as the service manager -------------------------------------------------------------------------------------------

    def token(self, *, audience: str | None = None, tenant: str | None = None, instance: str | None = None) -> str:
        """Return a token as the service manager sends it to the orchestrator."""
        return self._issuer.for_service(
            "bench",
            tenant_id=TenantId(tenant or self.tenant),
            audience=audience or tokens.audience_of_orchestrator(self.instance),
            instance_id=instance or self.instance,
        )

    def orchestrator(self, url: str, token: str | None = None) -> client.Client:
        """Return a client of the orchestrator at a URL."""
        once = client.Retry(attempts=1)
        return client.Client(url, token=token or self.token, retry=once, timeout=client.Timeout(total=self.seconds))

    def order(self, generation: int = 1, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the attributes of an order."""
        return {
            names.GENERATION: generation,
            wire.PARAMETERS: dict(parameters or {}),
            wire.INTERNAL_PARAMETERS: {},
        }

    def activation(
        self,
        generation: int = 1,
        *,
        parameters: Mapping[str, Any] | None = None,
        private: Mapping[str, Any] | None = None,
        instance: str | None = None,
    ) -> dict[str, Any]:
        """Return the attributes of an activation, as after a renewal."""
        return {
            names.INSTANCE: instance or self.instance,
            names.TENANT: self.tenant,
            names.SERVICE: self.service,
            **self.order(generation, parameters),
            wire.PRIVATE: dict(private or {}),
            wire.TOKENS: self._fresh(),
        }

    def activate(self, occi: client.Client, generation: int = 1, **more: Any) -> bool:
        """Activate, with further arguments of `activation`; return whether the entity was created."""
        return occi.put(wire.PATH, type_id(wire.ORCHESTRATOR), self.activation(generation, **more))[1]

    def phase(
        self, occi: client.Client, phase: str, generation: int = 1, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """Send a phase; `destroy` is a DELETE."""
        if phase == "destroy":
            occi.delete(wire.PATH)
        else:
            occi.act(wire.PATH, type_id(wire.PHASE_ACTIONS[phase]), self.order(generation, parameters))

    def notify(self, occi: client.Client, event: str, kind: str, subject: str = "", **data: Any) -> None:
        """Send an event, once. Raises client.UnavailableError if it must be redelivered."""
        attributes = {
            wire.EVENT_ID: event,
            wire.EVENT_TYPE: kind,
            wire.EVENT_SUBJECT: subject,
            wire.EVENT_DATA: data,
        }
        occi.act(wire.PATH, type_id(wire.NOTIFY), attributes)

    def settle(self, send: Callable[[], object]) -> bool:
        """Redeliver an event until it is accepted, like a sender; return whether that was in time."""
        until = time.monotonic() + self.seconds
        while True:
            try:
                send()
            except client.UnavailableError:
                if time.monotonic() > until:
                    return False
                time.sleep(0.05)
            else:
                return True

    def private(self) -> dict[str, Any]:
        """Return the private state that was reported last."""
        with self._changed:
            kept = [each[manager.PRIVATE] for each in self.reports if manager.PRIVATE in each]
        return dict(kept[-1]) if kept else {}

    def await_renewal(self, after: int = 0, *, seconds: float | None = None) -> bool:
        """Wait for more than `after` renewals, `seconds` or the usual timeout; return whether they came."""
        return self.watch(lambda: self.renewals > after, seconds)

    def await_report(self, phase: str | None, generation: int = 1, *, after: int = 0) -> dict[str, Any] | None:
        """Return a report that ends a phase (None: one without a phase) after the first `after`, or None after the timeout."""
        found: list[dict[str, Any]] = []

        def came() -> bool:
            found[:] = [
                each
                for each in self.reports[after:]
                if each.get(manager.PHASE) == phase
                and each.get(names.GENERATION) == generation
                and (phase is None or each.get(manager.PHASE_STATE) in ("done", "failed"))
            ]
            return bool(found)

        return found[0] if self.watch(came) else None

    def watch(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait for a condition on the received requests; return whether it came true."""
        with self._changed:
            return self._changed.wait_for(condition, self.seconds if seconds is None else seconds)

    @property
    def known_tokens(self) -> list[str]:
        """Every valid token that was issued."""
        return sorted(self._given)

    def expire(self) -> None:
        """Reject every token issued so far."""
        self._given.clear()

    def _fresh(self) -> dict[str, str]:
        """Issue tokens by audience, for an activation or a renewal."""
        audiences = (tokens.AUDIENCE_SERVICE_MANAGER, tokens.AUDIENCE_CLOUD_CONTROLLER)
        fresh = {audience: f"{audience}-{uuid.uuid4().hex}" for audience in audiences}
        self._given.update(fresh.values())
        return fresh

    # as the orchestrator's callee -------------------------------------------------------------------------------------

    def __call__(self, environ: WSGIEnvironment, response: StartResponse) -> Iterable[bytes]:
        """WSGI."""
        token = environ.pop("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
        path = environ["PATH_INFO"]
        with self._changed:
            if path.startswith(f"{_MOUNT}/"):
                environ["SCRIPT_NAME"], environ["PATH_INFO"] = _MOUNT, path.removeprefix(_MOUNT)
                answer = self._manager.serve(environ, response, token)
            elif token not in self._given and token != "exchanged":  # nosec  # noqa: S105 - what design's exchange returns here
                answer = self._manager.render_error(
                    environ, response, of_status(401, "the bench did not issue the token")
                )
            elif self.cloud_away > 0:
                self.cloud_away -= 1
                error = UnavailableError("the cloud is unavailable", retry_after=0)
                answer = self._manager.render_error(environ, response, error)
            else:
                answer = self.cloud(environ, response)
            self._changed.notify_all()
        return answer

    def renewed(self, token: str) -> dict[str, Any]:
        """Handle `renew`; return the response's attributes."""
        if token != self.start_token and token not in self._given:
            raise of_status(401, "the token is not the instance's")
        if self.renewal_refusals:
            raise of_status(self.renewal_refusals.pop(0), "refused by the test")
        self.renewals += token == self.start_token
        return {manager.TOKENS: self._fresh()}

    def reported(self, token: str, attributes: dict[str, Any]) -> None:
        """Handle `report`."""
        if token not in self._given or not token.startswith(tokens.AUDIENCE_SERVICE_MANAGER):
            raise of_status(401, "the token is not the instance's")
        if self.away > 0:
            self.away -= 1
            raise UnavailableError("the service manager is unavailable", retry_after=0)
        if self.refusals:
            raise of_status(self.refusals.pop(0), "refused by the test")
        self.reports.append(attributes)


class _ServiceManager(Application):
    """The instance at its service manager, as its orchestrator sees it."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        scheme, _, term = bench.service.rpartition("#")
        attributes: dict[str, str] = {**manager.INSTANCE_ATTRIBUTES}
        actions = [manager.RENEW, manager.REPORT]
        kind = Kind(f"{scheme}#", term, related=[Resource.kind], actions=actions, attributes=attributes)
        for category in (kind, *actions):
            self.register_backend(category, _Instance(bench))
        path = f"/{bench.instance}"
        self.registry.add_resource(path, Resource(path, kind, []), None)

    def serve(self, environ: WSGIEnvironment, response: StartResponse, token: str) -> Iterable[bytes]:
        """WSGI, for the holder of a token."""
        return self._call_occi(environ, response, token=token)


class _Instance(KindBackend, ActionBackend):
    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def action(
        self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any
    ) -> Mapping[str, Any] | None:
        if action == manager.RENEW:
            return self._bench.renewed(extras["token"])
        self._bench.reported(extras["token"], attributes)
        return None


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """Serves a WSGI application in threads of its own, from `start` until `close`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listen: tuple[str, int], application: WSGIApplication) -> None:
        super().__init__(listen, _Handler)
        self.url = f"http://{listen[0]}:{self.server_address[1]}"
        self.set_app(application)

    def start(self) -> None:
        """Start to serve."""
        threading.Thread(target=self.serve_forever, args=(0.02,), name="bench", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that are killed during a call, as tests do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Do not log: the bench records requests itself."""


class _NoInstances:
    def exists(self, instance_id: str, tenant_id: TenantId) -> bool:
        return False
