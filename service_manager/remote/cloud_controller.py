"""Calls to the cloud controller and to orchestrators: the requests of docs/architecture.md.

Every method makes one idempotent call (or two, if a check may save an upload). It raises the client's errors, and
`CircuitOpenError` of `orchestrator_calls`; the reconciler knows which of them are transient.
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

#: Timeout of one call, in seconds.
CALL_TIMEOUT: Final = 5.0
#: Timeout of the upload of a bundle, in seconds: it may be large, and deploy unpacks it.
BUNDLE_TIMEOUT: Final = 30.0
#: Timeout of a step, in seconds: it makes at most four calls besides an upload. Its lease is renewed until then.
STEP_TIMEOUT: Final = 4 * CALL_TIMEOUT + BUNDLE_TIMEOUT + 4.0
#: Seconds that a module's endpoint is cached.
_ENDPOINT_CACHED: Final = 60.0


def _id(category: Any) -> str:
    return str(category.scheme + category.term)


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a call is made: determines the token's claims and the request id."""

    tenant: TenantId
    instance: str
    request_id: str | None = None
    start: int = 0
    """Number of starts of the instance's orchestrator."""


class Cloud:
    """Clients of the cloud controller's modules and of all orchestrators.

    Args:
        design_url: URL of design; its catalogue contains the other modules.
        issuer: signs tokens for the calls.
        name: of this service manager.
        threads: threads of this process that make calls.
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
        self._limiter = CallLimiter(_connect, threads=threads, monotonic=monotonic)
        self._modules: dict[str, tuple[str, float]] = {}

    # applications -----------------------------------------------------------------------------------------------------

    def has_bundle(self, digest: str, caller: Caller) -> bool:
        """Return whether deploy has a bundle."""
        return self._module(deploy.SCHEME, caller).exists(deploy.bundle_path(digest))

    def put_bundle(self, digest: str, archive: bytes, caller: Caller) -> None:
        """Upload a bundle to deploy."""
        timeout = client.Timeout(connect=2.0, read=BUNDLE_TIMEOUT, total=BUNDLE_TIMEOUT)
        module = self._module(deploy.SCHEME, caller).using(timeout=timeout)
        module.put_bytes(deploy.bundle_path(digest), archive, deploy.BUNDLE_MEDIA_TYPE)

    def put_application(self, attributes: Mapping[str, Any], title: str, caller: Caller) -> None:
        """Create or update the orchestrator's application."""
        self._module(deploy.SCHEME, caller).put(
            deploy.application_path(caller.instance),
            _id(deploy.APPLICATION),
            {deploy.APP_NAME: title, names.INSTANCE: caller.instance, **attributes},
            mixins=[_id(deploy.ORCHESTRATOR)],
            read=False,
        )

    def application(self, caller: Caller) -> client.Entity:
        """Return the orchestrator's application."""
        return self._module(deploy.SCHEME, caller).get(deploy.application_path(caller.instance))

    def address(self, caller: Caller) -> str:
        """Return the orchestrator's URL. Raises LookupError if its application has none yet."""
        found = self.application(caller).attributes.get(deploy.APP_URL)
        if not found:
            raise LookupError("the orchestrator's application has no address yet")
        return str(found).rstrip("/")

    # the catalogue ----------------------------------------------------------------------------------------------------

    def services(self, service_type: str, tenant: TenantId | None = None) -> list[client.Entity]:
        """List the trusted entries of a service type, on behalf of a tenant or of this service manager itself."""
        return _trusted_entries(self._catalogue(tenant), service_type)

    def put_entry(self, path: str, attributes: Mapping[str, Any], title: str, tenant: TenantId) -> None:
        """Create or update an entry of the catalogue."""
        self._catalogue(tenant).put(path, _id(design.SERVICE), attributes, title=title)

    def delete_entry(self, path: str, tenant: TenantId) -> None:
        """Delete an entry of the catalogue; idempotent."""
        with contextlib.suppress(client.NotFoundError):
            self._catalogue(tenant).delete(path)

    def _catalogue(self, tenant: TenantId | None) -> client.Client:
        caller = Caller(tenant or TenantId(self._name), "")
        return self._at(self._design, tokens.AUDIENCE_CLOUD_CONTROLLER, caller)

    # delegations and disposal -----------------------------------------------------------------------------------------

    def delegate(self, caller: Caller, *, token: str | None, parent: str | None) -> None:
        """Create an instance's delegation from its tenant's own token, or as a child of another instance's delegation."""
        design_module = self._at(self._design, tokens.AUDIENCE_CLOUD_CONTROLLER, caller)
        if token is not None:
            design_module = design_module.using(headers={design.SUBJECT_TOKEN_HEADER: token})
        attributes = {} if parent is None else {design.DELEGATION_PARENT: parent}
        design_module.put(design.delegation_path(caller.instance), _id(design.DELEGATION), attributes)

    def revoke_delegation(self, caller: Caller) -> None:
        """End an instance's delegation; the last call on its behalf. Idempotent."""
        with contextlib.suppress(client.NotFoundError):
            design_module = self._at(self._design, tokens.AUDIENCE_CLOUD_CONTROLLER, caller)
            design_module.delete(design.delegation_path(caller.instance))

    def dispose(self, generation: int, service: str, caller: Caller, *, start: bool) -> client.Entity:
        """Return an instance's disposal. With `start`, begin it, or begin it again if it failed."""
        module = self._module(disposal.SCHEME, caller)
        path = disposal.disposal_path(caller.instance)
        if not start:
            with contextlib.suppress(client.NotFoundError):
                return module.get(path)
        labels = {names.INSTANCE: caller.instance, names.SERVICE: service, names.GENERATION: generation}
        return module.put(path, _id(disposal.DISPOSAL), labels, read=False)[0]

    # orchestrators ----------------------------------------------------------------------------------------------------

    def activate(self, address: str, attributes: Mapping[str, Any], caller: Caller) -> None:
        """Activate an orchestrator for its instance."""
        with self._orchestrator(address, caller) as target:
            target.put(orchestrator.PATH, _id(orchestrator.ORCHESTRATOR), attributes)

    def phase(self, address: str, phase: str, attributes: Mapping[str, Any], caller: Caller) -> None:
        """Have an orchestrator carry out a phase."""
        with self._orchestrator(address, caller) as target:
            target.act(orchestrator.PATH, _id(orchestrator.PHASE_ACTIONS[phase]), attributes)

    def act(self, address: str, attributes: Mapping[str, Any], caller: Caller) -> None:
        """Send an orchestrator the invocation of a declared action."""
        with self._orchestrator(address, caller) as target:
            target.act(orchestrator.PATH, _id(orchestrator.ACT), attributes)

    def dismiss(self, address: str, caller: Caller) -> None:
        """Have an orchestrator dispose of everything that it created."""
        with self._orchestrator(address, caller) as target:
            target.delete(orchestrator.PATH)

    # connections ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _orchestrator(self, address: str, caller: Caller) -> Iterator[client.Client]:
        with self._limiter.call(caller.instance, address, tenant=caller.tenant, start=caller.start) as target:
            yield self._authenticated(target, tokens.audience_of_orchestrator(caller.instance), caller)

    def _module(self, scheme: str, caller: Caller) -> client.Client:
        found = self._modules.get(scheme)
        now = self._monotonic()
        if found is None or now >= found[1]:
            entries = _trusted_entries(self._at(self._design, tokens.AUDIENCE_CLOUD_CONTROLLER, caller), scheme)
            if not entries:
                raise LookupError(
                    f"the catalogue of the cloud controller at {self._design} has no service of type {scheme}, which "
                    "it registers at startup: check that the cloud controller is running, at this version"
                )
            internal = [each for each in entries if each.attributes.get(design.INTERFACE) == "internal"]
            url = str((internal or entries)[0].attributes[design.ENDPOINT])
            found = self._modules[scheme] = (url, now + _ENDPOINT_CACHED)
        return self._at(found[0], tokens.AUDIENCE_CLOUD_CONTROLLER, caller)

    def _at(self, url: str, audience: str, caller: Caller) -> client.Client:
        with self._lock:
            found = self._clients.get(url)
            if found is None:
                found = self._clients[url] = _connect(url)
        return self._authenticated(found, audience, caller)

    def _authenticated(self, target: client.Client, audience: str, caller: Caller) -> client.Client:
        token = self._issuer.for_service(
            self._name, tenant_id=caller.tenant, audience=audience, instance_id=caller.instance or None
        )
        return target.using(token=token, request_id=caller.request_id)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            clients = [*self._clients.values()]
            self._clients.clear()
        for each in clients:
            each.close()
        self._limiter.close_all()

    def forget(self, instance: str) -> None:
        """Close the connections to a deleted instance's orchestrator."""
        self._limiter.close(instance)


def _trusted_entries(catalogue: client.Client, service_type: str) -> list[client.Entity]:
    entries = catalogue.list(design.SERVICE.location, attributes={design.SERVICE_TYPE: service_type})
    return [each for each in entries if design.is_trusted(each.attributes)]


def _connect(url: str) -> client.Client:
    split = urlsplit(url)
    return client.Client(
        f"{split.scheme}://{split.netloc}{split.path}",
        timeout=client.Timeout(connect=2.0, read=CALL_TIMEOUT, total=CALL_TIMEOUT),
        # The queue retries; a retry in the client would block a worker's thread.
        retry=client.Retry(attempts=1),
    )
