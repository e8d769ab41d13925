"""Calls to orchestrators, limited so that one that does not respond cannot occupy the threads of the others.

A worker has few threads, and an orchestrator may run any code: one that accepts a connection and never responds holds a thread
until the call times out, and a slow one holds it nearly as long. Calls are therefore limited in three ways:

- After a timeout the circuit of that orchestrator is open for a second, then twice as long each time, up to half a minute;
  then one call probes it.
- An orchestrator gets a few concurrent calls at most, and a single one while it has not responded yet or was slow.
- A tenant with a slow call within the last minute has a quarter of the threads for those of its orchestrators whose last call
  was slow or failed. Calls to the others are unaffected.

A call that is not made raises `CircuitOpenError`, which contains the time of the retry. The state is in the memory of one
process. An orchestrator that restarts is a new one. The least recently used connections are closed first, since connections to
thousands of orchestrators would exceed a process' descriptors.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Final

from archelon_core.backoff import Backoff
from occi_service import client

#: Seconds after which a call is slow.
_SLOW: Final = 1.0
#: Seconds without a call, by the number of consecutive slow calls without a response.
_BACKOFF: Final = Backoff(1.0, longest=30.0)
#: Seconds that a tenant is limited after a slow call.
_LIMITED: Final = 60.0
#: Seconds between the retries of a tenant's deferred calls.
_RETRY_SPACING: Final = 0.1
#: Limit of orchestrators whose connections are kept open.
_MAX_CONNECTIONS: Final = 256


class CircuitOpenError(client.ClientError):
    """The call was not made.

    Attributes:
        seconds: until the retry.
    """

    def __init__(self, reason: str, *, address: str, seconds: float) -> None:
        super().__init__(reason, method="call", url=address)
        self.seconds = seconds


@dataclasses.dataclass(slots=True)
class _Circuit:
    client: client.Client
    address: str
    start: int
    responsive: bool = False
    """The last call had a response, and was not slow."""
    calls: int = 0
    consecutive_failures: int = 0
    open_until: float = 0.0


@dataclasses.dataclass(slots=True)
class _Tenant:
    limited_until: float = 0.0
    calls: int = 0
    """In progress, to orchestrators that were not responsive when they began."""
    next_retry: float = 0.0


class CallLimiter:
    """Limits calls as the module describes. Thread-safe.

    Args:
        connect: creates the client of an address.
        threads: threads of the process that make calls.
        monotonic: seconds.
    """

    def __init__(
        self, connect: Callable[[str], client.Client], *, threads: int, monotonic: Callable[[], float]
    ) -> None:
        self._connect = connect
        self._share = max(1, threads // 4)
        self._at_once = max(1, threads // 2)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._circuits: collections.OrderedDict[str, _Circuit] = collections.OrderedDict()
        self._tenants: dict[str, _Tenant] = {}

    @contextlib.contextmanager
    def call(self, instance: str, address: str, *, tenant: str, start: int) -> Iterator[client.Client]:
        """Limit one call to an instance's orchestrator; the context is the client that makes it.

        Args:
            instance: the orchestrator's.
            address: URL of the orchestrator.
            tenant: the instance's.
            start: number of starts of the orchestrator.

        Raises:
            CircuitOpenError: the call may not be made now.
        """
        with self._lock:
            begun = self._monotonic()
            circuit = self._circuit(instance, address, start)
            of_tenant = self._tenant(tenant, begun)
            self._check(circuit, of_tenant, begun)
            responsive = circuit.responsive
            circuit.calls += 1
            of_tenant.calls += not responsive
        responded = True
        try:
            yield circuit.client
        except client.TransportError:
            responded = False
            raise
        finally:
            with self._lock:
                now = self._monotonic()
                circuit.calls -= 1
                of_tenant.calls -= not responsive
                slow = now - begun >= _SLOW
                circuit.responsive = responded and not slow
                if slow:
                    of_tenant.limited_until = now + _LIMITED
                # A refused connection holds no thread: it is mostly a container that is about to be up again.
                circuit.consecutive_failures = circuit.consecutive_failures + 1 if slow and not responded else 0
                if circuit.consecutive_failures:
                    circuit.open_until = now + _BACKOFF.delay(circuit.consecutive_failures)

    def _check(self, circuit: _Circuit, tenant: _Tenant, now: float) -> None:
        if now < circuit.open_until:
            reason, seconds = (
                "the orchestrator did not respond, and is not called for a while",
                circuit.open_until - now,
            )
        elif circuit.calls >= (self._at_once if circuit.responsive else 1):
            reason, seconds = "the orchestrator is being called already", _RETRY_SPACING
        elif not circuit.responsive and now < tenant.limited_until and tenant.calls >= self._share:
            # Retries are spaced, so that deferred calls do not all come at once, again and again.
            tenant.next_retry = min(max(tenant.next_retry, now) + _RETRY_SPACING, now + _BACKOFF.longest)
            reason, seconds = "its tenant's orchestrators are slow", tenant.next_retry - now
        else:
            return
        raise CircuitOpenError(reason, address=circuit.address, seconds=seconds)

    def _circuit(self, instance: str, address: str, start: int) -> _Circuit:
        circuit = self._circuits.get(instance)
        if circuit is None or circuit.address != address or circuit.start < start:
            # Calls to the previous process end on the client that they began on.
            self._close(instance)
            if len(self._circuits) >= _MAX_CONNECTIONS:
                oldest = next((each for each, circuit in self._circuits.items() if not circuit.calls), None)
                if oldest is not None:
                    self._close(oldest)
            circuit = self._circuits[instance] = _Circuit(self._connect(address), address, start)
        self._circuits.move_to_end(instance)
        return circuit

    def close(self, instance: str) -> None:
        """Close the connections to an instance's orchestrator."""
        with self._lock:
            self._close(instance)

    def close_all(self) -> None:
        """Close the connections to all orchestrators."""
        with self._lock:
            for instance in list(self._circuits):
                self._close(instance)

    def _close(self, instance: str) -> None:
        circuit = self._circuits.pop(instance, None)
        if circuit is not None:
            circuit.client.close()

    def _tenant(self, tenant: str, now: float) -> _Tenant:
        found = self._tenants.get(tenant)
        if found is None:
            for name in [name for name, each in self._tenants.items() if not each.calls and each.limited_until <= now]:
                del self._tenants[name]
            found = self._tenants[tenant] = _Tenant()
        return found
