"""A test bench: what is around one orchestrator, over real HTTP: its service manager, design, deploy and the other modules.

The cloud is that of `fake_cloud`. The service manager takes `renew` and `report`, and says what a service manager says: it
activates, sends phases, tells of events. Everything listens on loopback and is gone with the context.
"""

from __future__ import annotations

import http.server
import json
import re
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ed25519

from archelon_api import names, tokens
from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from archelon_core.auth import MemoryRevocations, SigningKey, TenantId, TokenIssuer, VerificationKeys, write_jwk_set
from occi_service import client
from occi_service.model import type_id

from .fake_cloud import MemoryCloud

_TYPE: Final = "application/occi+json"
_PAIR: Final = re.compile(r'([A-Za-z0-9._-]+)=("(?:[^"\\]|\\.)*"|[^,]*)')
SERVICE: Final = "http://schemas.example.org/occi/service#tested"


class Bench:
    """See the module; a context manager.

    Args:
        service: type identifier of the service whose orchestrator is tested.
        listen: address and port to listen at; the orchestrator is told to call there. Port 0 takes a free one.

    Attributes:
        cloud: what the orchestrator makes.
        instance: its instance's id; tenant: whose that is.
        reports: what was reported and taken, in order.
        renewals: how often tokens were asked for with the start token.
        away: how many of the next reports are answered with 503.
        refusals: statuses that the next reports are answered with.
        cloud_away: how many of the next calls to the cloud are.
        seconds: that is waited for what has to come.
    """

    def __init__(
        self, service: str = SERVICE, *, seconds: float = 15.0, listen: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.service = service
        self.instance = str(uuid.uuid4())
        self.tenant = "tenant-1"
        self.seconds = seconds
        self.reports: list[dict[str, Any]] = []
        self.renewals = 0
        self.away = 0
        self.refusals: list[int] = []
        self.cloud_away = 0
        self.start_token = f"start-{uuid.uuid4().hex}"
        self._given: set[str] = set()
        self._changed = threading.Condition()
        private = ed25519.Ed25519PrivateKey.generate()
        self._key = SigningKey.of(private, issuer="bench")
        self._issuer = TokenIssuer(
            self._key,
            keys=VerificationKeys([self._key.public]),
            instances=_Nothing(),
            revocations=MemoryRevocations(time.time),
            clock=time.time,
        )
        bench = self

        class Handler(_Handler):
            peers = bench

        self._server = _Server(listen, Handler)
        self.url = f"http://{listen[0]}:{self._server.server_address[1]}"
        self.cloud = MemoryCloud(self.url)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="bench", daemon=True)

    def __enter__(self) -> Bench:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What the orchestrator is to be started with, beside `HOST` and `PORT`."""
        return {
            wire.ENV_INSTANCE: self.instance,
            wire.ENV_SERVICE_MANAGER: f"{self.url}/manager/{self.instance}",
            wire.ENV_DESIGN: f"{self.url}/design",
            wire.ENV_TOKEN: self.start_token,
            wire.ENV_KEYS: write_jwk_set([self._key.public]),
        }

    # as the service manager -------------------------------------------------------------------------------------------

    def token(self, *, audience: str | None = None, tenant: str | None = None, instance: str | None = None) -> str:
        """A token as the service manager sends it to the orchestrator."""
        return self._issuer.for_service(
            "bench",
            tenant_id=TenantId(tenant or self.tenant),
            audience=audience or tokens.audience_of_orchestrator(self.instance),
            instance_id=instance or self.instance,
        )

    def orchestrator(self, url: str, token: str | None = None) -> client.Client:
        """A client of the orchestrator at a URL."""
        once = client.Retry(attempts=1)
        return client.Client(url, token=token or self.token, retry=once, timeout=client.Timeout(total=self.seconds))

    def order(self, generation: int = 1, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The attributes of an order."""
        return {
            names.GENERATION: generation,
            wire.PARAMETERS: dict(parameters or {}),
            wire.INTERNAL_PARAMETERS: {},
        }

    def activate(
        self,
        occi: client.Client,
        generation: int = 1,
        *,
        parameters: Mapping[str, Any] | None = None,
        private: Mapping[str, Any] | None = None,
        instance: str | None = None,
    ) -> bool:
        """Activate, as after a renewal; whether the entity was made."""
        attributes = {
            names.INSTANCE: instance or self.instance,
            names.TENANT: self.tenant,
            names.SERVICE: self.service,
            **self.order(generation, parameters),
            wire.PRIVATE: dict(private or {}),
            wire.TOKENS: self._fresh(),
        }
        return occi.put(wire.PATH, type_id(wire.ORCHESTRATOR), attributes)[1]

    def phase(
        self, occi: client.Client, phase: str, generation: int = 1, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """Send a phase; `destroy` is a DELETE."""
        if phase == "destroy":
            occi.delete(wire.PATH)
        else:
            occi.act(wire.PATH, type_id(wire.PHASE_ACTIONS[phase]), self.order(generation, parameters))

    def notify(self, occi: client.Client, event: str, kind: str, subject: str = "", **data: Any) -> None:
        """Tell of an event, once. Raises client.UnavailableError where it is to be told again."""
        attributes = {
            wire.EVENT_ID: event,
            wire.EVENT_TYPE: kind,
            wire.EVENT_SUBJECT: subject,
            wire.EVENT_DATA: data,
        }
        occi.act(wire.PATH, type_id(wire.NOTIFY), attributes)

    def settle(self, tell: Callable[[], object]) -> bool:
        """Tell of an event until it is taken, as a sender does; whether it was in time."""
        until = time.monotonic() + self.seconds
        while True:
            try:
                tell()
            except client.UnavailableError:
                if time.monotonic() > until:
                    return False
                time.sleep(0.05)
            else:
                return True

    def private(self) -> dict[str, Any]:
        """The private state that was reported last."""
        with self._changed:
            kept = [each[manager.PRIVATE] for each in self.reports if manager.PRIVATE in each]
        return dict(kept[-1]) if kept else {}

    def await_renewal(self, after: int = 0, *, seconds: float | None = None) -> bool:
        """Wait for more renewals than `after`, for as long as is said or as for everything else; whether they came."""
        return self._await(lambda: self.renewals > after, seconds)

    def await_report(self, phase: str | None, generation: int = 1, *, after: int = 0) -> dict[str, Any] | None:
        """Wait for a report that ends a phase (None: one of no phase), later than the first `after`; None if it does not come."""
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

        return found[0] if self._await(came) else None

    def _await(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, self.seconds if seconds is None else seconds)

    def watch(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition of the cloud; whether it came true."""
        return self._await(condition)

    @property
    def known_tokens(self) -> list[str]:
        """Every token that was given and not expired."""
        return sorted(self._given)

    def expire(self) -> None:
        """Have every token that was given refused from now on."""
        self._given.clear()

    def _fresh(self) -> dict[str, str]:
        fresh = {
            audience: f"{audience}-{uuid.uuid4().hex}"
            for audience in (tokens.AUDIENCE_SERVICE_MANAGER, tokens.AUDIENCE_CLOUD_CONTROLLER)
        }
        self._given.update(fresh.values())
        return fresh

    # as what it calls -------------------------------------------------------------------------------------------------

    def answer(self, method: str, url: str, token: str, filters: Mapping[str, Any], document: Any) -> tuple[int, Any]:
        """Serve one request; status and document."""
        parts = urllib.parse.urlsplit(url)
        module, _, rest = parts.path.lstrip("/").partition("/")
        action = document.get("action") if isinstance(document, dict) else None
        attributes = document.get("attributes", {}) if isinstance(document, dict) else {}
        if module == "manager":
            return self._managed(rest, token, action, attributes)
        if token not in self._given and token != "exchanged":  # nosec  # noqa: S105 - what design's exchange gives here
            return 401, None
        if self.cloud_away > 0:
            self.cloud_away -= 1
            return 503, None
        try:
            return self._counted(method, urllib.parse.unquote(module), f"/{rest}", filters, document)
        except client.StatusError as error:
            return error.status, {"error": error.message}

    def _managed(self, instance: str, token: str, action: str | None, attributes: dict[str, Any]) -> tuple[int, Any]:
        shown: dict[str, Any] = {}
        with self._changed:
            if instance != self.instance:
                return 404, None
            if action == type_id(manager.RENEW):
                if token != self.start_token and token not in self._given:
                    return 401, None
                self.renewals += token == self.start_token
                shown = {manager.TOKENS: self._fresh()}
            elif action == type_id(manager.REPORT):
                if token not in self._given or not token.startswith(tokens.AUDIENCE_SERVICE_MANAGER):
                    return 401, None
                if self.away > 0:
                    self.away -= 1
                    self._changed.notify_all()
                    return 503, None
                if self.refusals:
                    return self.refusals.pop(0), None
                self.reports.append(attributes)
            else:
                return 400, None
            self._changed.notify_all()
        return 200, {"kind": self.service, "id": f"urn:uuid:{self.instance}", "attributes": shown}

    def _counted(
        self, method: str, module: str, path: str, filters: Mapping[str, Any], document: Any
    ) -> tuple[int, Any]:
        try:
            return self._cloudy(method, module, path, filters, document)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _cloudy(
        self, method: str, module: str, path: str, filters: Mapping[str, Any], document: Any
    ) -> tuple[int, Any]:
        cloud = self.cloud
        attributes = document.get("attributes", {}) if isinstance(document, dict) else {}
        if method == "GET" and path.endswith("/"):
            return 200, {"resources": [_shown(each) for each in cloud.find(module, path, filters)]}
        if method == "GET":
            return 200, _shown(cloud.get(module, path))
        if method == "PUT":
            entity, created = cloud.put(module, path, document["kind"], attributes, mixins=document.get("mixins", ()))
            return (201 if created else 200), _shown(entity)
        if method == "DELETE":
            cloud.delete(module, path)
            return 204, None
        if "action" in document:
            return 200, _shown(cloud.act(module, path, document["action"], attributes))
        return 200, _shown(cloud.update(module, path, attributes))


def _shown(entity: client.Entity) -> dict[str, Any]:
    return {"kind": entity.kind, "id": entity.location, "attributes": dict(entity.attributes)}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who is killed in the middle of a call, as tests do, is no error of the bench's."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Nothing:
    def exists(self, instance_id: str, tenant_id: TenantId) -> bool:
        return False


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    peers: Bench

    def do_GET(self) -> None:
        """Answer."""
        self._serve()

    def do_PUT(self) -> None:
        """Answer."""
        self._serve()

    def do_POST(self) -> None:
        """Answer."""
        self._serve()

    def do_DELETE(self) -> None:
        """Answer."""
        self._serve()

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        filters = _filters(self.headers.get("X-OCCI-Attribute", ""))
        document = json.loads(body) if body else {}
        status, answer = self.peers.answer(self.command, self.path, token, filters, document)
        payload = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", _TYPE)
        if status == 201:
            self.send_header("Location", self.path.partition("?")[0])
        if status != 204:
            self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if status != 204:
            self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """The bench keeps its books itself."""


def _filters(field: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _PAIR.findall(field):
        found[name] = json.loads(value) if value[:1] in '"0123456789' else value
    return found
