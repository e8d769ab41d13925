"""What the service manager says to the cloud controller and to orchestrators: the requests of docs/architecture.md.

Every method is one idempotent call (or two, where a look saves an upload). Errors are the client's, and `CircuitOpenError` of
`lines`; the reconciler knows which of them pass and which do not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from archelon_api import deploy, design, disposal, names, orchestrator, tokens
from archelon_core.auth import TenantId, TokenIssuer
from occi_service import client

from .orchestrator_calls import CallLimiter

#: Seconds for one call.
CALL_TIMEOUT: Final = 5.0
#: Seconds for the upload of a bundle, which may be large and is unpacked there.
BUNDLE_TIMEOUT: Final = 30.0
#: Seconds for a step, which makes at most three calls beside an upload. Its lease is renewed until then.
STEP_TIMEOUT: Final = 3 * CALL_TIMEOUT + BUNDLE_TIMEOUT + 4.0
#: Seconds that a module's endpoint is remembered.
_REMEMBERED: Final = 60.0


def _id(category: Any) -> str:
    return str(category.scheme + category.term)


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """For whom a call is made: it becomes the token's claims and the request id."""

    tenant: TenantId
    instance: str
    request_id: str | None = None
    start: int = 0
    """How often the instance's orchestrator has started."""


class Cloud:
    """The cloud controller's modules and all orchestrators, seen from one service manager.

    Args:
        design_url: where design is; the other modules are found in its catalogue.
        issuer: signs tokens for the calls.
        name: of this service manager.
        threads: how many this process has for calls.
        monotonic: seconds.
    """

    def __init__(
        self,
        design_url: str,
        issuer: TokenIssuer,
        *,
        name: str,
        threads: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._design = design_url
        self._issuer = issuer
        self._name = name
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._clients: dict[str, client.Client] = {}
        self._lines = CallLimiter(_connect, threads=threads, monotonic=monotonic)
        self._modules: dict[str, tuple[str, float]] = {}

    # applications -----------------------------------------------------------------------------------------------------

    def has_bundle(self, digest: str, caller: Caller) -> bool:
        """Whether deploy has a bundle."""
        return self._module(deploy.SCHEME, caller).exists(deploy.bundle_path(digest))

    def put_bundle(self, digest: str, archive: bytes, caller: Caller) -> None:
        """Give deploy a bundle."""
        patient = client.Timeout(connect=2.0, read=BUNDLE_TIMEOUT, total=BUNDLE_TIMEOUT)
        module = self._module(deploy.SCHEME, caller).using(timeout=patient)
        module.put_bytes(deploy.bundle_path(digest), archive, deploy.BUNDLE_MEDIA_TYPE)

    def make_application(self, attributes: Mapping[str, Any], title: str, caller: Caller) -> None:
        """Have the orchestrator's application made, or made what the attributes now say."""
        self._module(deploy.SCHEME, caller).put(
            deploy.application_path(caller.instance),
            _id(deploy.APPLICATION),
            {deploy.APP_NAME: title, names.INSTANCE: caller.instance, **attributes},
            mixins=[_id(deploy.ORCHESTRATOR)],
        )

    def application(self, caller: Caller) -> client.Entity:
        """The orchestrator's application as it is."""
        return self._module(deploy.SCHEME, caller).get(deploy.application_path(caller.instance))

    # the catalogue ----------------------------------------------------------------------------------------------------

    def services(self, service_type: str, tenant: TenantId | None = None) -> list[client.Entity]:
        """Every entry of a type that may be believed; for a tenant, or for this service manager itself."""
        return _believed(self._catalogue(tenant), service_type)

    def enter(self, path: str, attributes: Mapping[str, Any], title: str, tenant: TenantId) -> None:
        """Have an entry of the catalogue say this."""
        self._catalogue(tenant).put(path, _id(design.SERVICE), attributes, title=title)

    def take_out(self, path: str, tenant: TenantId) -> None:
        """Have an entry of the catalogue gone."""
        with contextlib.suppress(client.NotFoundError):
            self._catalogue(tenant).delete(path)

    def _catalogue(self, tenant: TenantId | None) -> client.Client:
        caller = Caller(tenant or TenantId(self._name), "")
        return self._at(self._design, tokens.AUDIENCE_CLOUD_CONTROLLER, caller)

    # delegations and disposal -----------------------------------------------------------------------------------------

    def delegate(self, caller: Caller, *, token: str | None, parent: str | None) -> None:
        """Have a delegation made for an instance: out of its tenant's own token, or hanging on another instance's."""
        design_module = self._at(self._design, tokens.AUDIENCE_CLOUD_CONTROLLER, caller)
        if token is not None:
            design_module = design_module.using(headers={design.SUBJECT_TOKEN_HEADER: token})
        attributes = {} if parent is None else {design.DELEGATION_PARENT: parent}
        design_module.put(design.delegation_path(caller.instance), _id(design.DELEGATION), attributes)

    def revoke_delegation(self, caller: Caller) -> None:
        """End what was delegated for an instance; the last call made for it."""
        try:
            self._at(self._design, tokens.AUDIENCE_CLOUD_CONTROLLER, caller).delete(
                design.delegation_path(caller.instance)
            )
        except client.NotFoundError:
            return

    def dispose(self, generation: int, service: str, caller: Caller, *, ask: bool) -> client.Entity:
        """How far the disposal of an instance is; with `ask`, have it begun, or begun again where it failed."""
        module = self._module(disposal.SCHEME, caller)
        path = disposal.disposal_path(caller.instance)
        if not ask:
            try:
                return module.get(path)
            except client.NotFoundError:
                pass
        labels = {names.INSTANCE: caller.instance, names.SERVICE: service, names.GENERATION: generation}
        return module.put(path, _id(disposal.DISPOSAL), labels)[0]

    # orchestrators ----------------------------------------------------------------------------------------------------

    def activate(self, address: str, attributes: Mapping[str, Any], caller: Caller) -> None:
        """Tell an orchestrator whose it is."""
        with self._orchestrator(address, caller) as line:
            line.put(orchestrator.PATH, _id(orchestrator.ORCHESTRATOR), {names.INSTANCE: caller.instance, **attributes})

    def phase(self, address: str, phase: str, attributes: Mapping[str, Any], caller: Caller) -> None:
        """Tell an orchestrator to carry out a phase."""
        action = orchestrator.PHASE_ACTIONS[phase]
        with self._orchestrator(address, caller) as line:
            line.act(orchestrator.PATH, _id(action), attributes)

    def act(self, address: str, attributes: Mapping[str, Any], caller: Caller) -> None:
        """Pass the invocation of a declared action on."""
        with self._orchestrator(address, caller) as line:
            line.act(orchestrator.PATH, _id(orchestrator.ACT), attributes)

    def dismiss(self, address: str, caller: Caller) -> None:
        """Tell an orchestrator to dispose of all it made."""
        with self._orchestrator(address, caller) as line:
            line.delete(orchestrator.PATH)

    # how --------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _orchestrator(self, address: str, caller: Caller) -> Iterator[client.Client]:
        with self._lines.call(caller.instance, address, tenant=caller.tenant, start=caller.start) as line:
            yield self._speaking(line, tokens.audience_of_orchestrator(caller.instance), caller)

    def _module(self, scheme: str, caller: Caller) -> client.Client:
        found = self._modules.get(scheme)
        now = self._monotonic()
        if found is None or now >= found[1]:
            entries = _believed(self._at(self._design, tokens.AUDIENCE_CLOUD_CONTROLLER, caller), scheme)
            if not entries:
                raise LookupError(
                    f"the cloud controller at {self._design} has not entered a service of type {scheme} in its catalogue; "
                    "it does so at its start: see that it runs, and in this version"
                )
            internal = [each for each in entries if each.attributes.get(design.INTERFACE) == "internal"]
            url = str((internal or entries)[0].attributes[design.ENDPOINT])
            found = self._modules[scheme] = (url, now + _REMEMBERED)
        return self._at(found[0], tokens.AUDIENCE_CLOUD_CONTROLLER, caller)

    def _at(self, url: str, audience: str, caller: Caller) -> client.Client:
        with self._lock:
            found = self._clients.get(url)
            if found is None:
                found = self._clients[url] = _connect(url)
        return self._speaking(found, audience, caller)

    def _speaking(self, to: client.Client, audience: str, caller: Caller) -> client.Client:
        token = self._issuer.for_service(
            self._name, tenant_id=caller.tenant, audience=audience, instance_id=caller.instance or None
        )
        return to.using(token=token, request_id=caller.request_id)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            clients = [*self._clients.values()]
            self._clients.clear()
        for each in clients:
            each.close()
        self._lines.close_all()

    def forget(self, instance: str) -> None:
        """Close the connections to an orchestrator that is gone."""
        self._lines.close(instance)


def _believed(catalogue: client.Client, service_type: str) -> list[client.Entity]:
    entries = catalogue.list(design.SERVICE.location, attributes={design.SERVICE_TYPE: service_type})
    return [each for each in entries if design.is_believed(each.attributes)]


def _connect(url: str) -> client.Client:
    split = urlsplit(url)
    return client.Client(
        f"{split.scheme}://{split.netloc}{split.path}",
        timeout=client.Timeout(connect=2.0, read=CALL_TIMEOUT, total=CALL_TIMEOUT),
        # The queue tries again; a call that waits here would hold a worker's thread.
        retry=client.Retry(attempts=1),
    )
