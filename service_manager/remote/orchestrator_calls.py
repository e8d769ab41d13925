"""Calls to orchestrators, limited so that one that does not answer cannot take the threads of the others.

A worker has few threads, and an orchestrator may run any code: one that accepts a connection and never responds holds a thread
until the call times out, and a slow one holds it nearly as long. Calls are therefore limited in three ways:

- After a timeout the circuit of that orchestrator is open for a second, then twice as long each time, up to half a minute;
  then one call probes it.
- An orchestrator gets a few concurrent calls at most, and a single one while it has not responded yet or was late.
- A tenant with an orchestrator that kept a thread waiting within the last minute has a quarter of the threads for those of its
  orchestrators that did not respond, or were late, the last time. Calls to the ones that respond are unaffected.

A call that is not made raises `CircuitOpenError`, which says when to retry. The state is of one process and in its memory. An
orchestrator that restarts is a new one. The connections that were unused for longest are closed first, since connections to
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

#: Seconds after which a call has kept its thread waiting.
_SLOW: Final = 1.0
#: Seconds without a call, after so many in a row that kept their thread waiting and had no answer.
_PAUSES: Final = Backoff(1.0, longest=30.0)
#: Seconds that a tenant is watched after a slow call.
_WATCHED: Final = 60.0
#: Seconds between the appointments of calls that a tenant had to put off.
_APART: Final = 0.1
#: Orchestrators whose connections are kept open.
_MOST: Final = 256


class CircuitOpenError(client.ClientError):
    """The call was not made.

    Attributes:
        seconds: after which to come again.
    """

    def __init__(self, why: str, *, address: str, seconds: float) -> None:
        super().__init__(why, method="call", url=address)
        self.seconds = seconds


@dataclasses.dataclass(slots=True)
class _Circuit:
    client: client.Client
    address: str
    start: int
    prompt: bool = False
    """It answered the last call, and soon."""
    calls: int = 0
    failures: int = 0
    """In a row."""
    free_at: float = 0.0


@dataclasses.dataclass(slots=True)
class _Tenant:
    watched_until: float = 0.0
    calls: int = 0
    """Under way, to those who were not prompt when they began."""
    appointment: float = 0.0


class CallLimiter:
    """See the module. Threads share it.

    Args:
        connect: makes the client of an address.
        threads: how many the process has for all calls.
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
        self._lines: collections.OrderedDict[str, _Circuit] = collections.OrderedDict()
        self._tenants: dict[str, _Tenant] = {}

    @contextlib.contextmanager
    def call(self, instance: str, address: str, *, tenant: str, start: int) -> Iterator[client.Client]:
        """Surrounds one call to the orchestrator of an instance, and says which client makes it.

        Args:
            instance: whose orchestrator it is.
            address: where it answers.
            tenant: whose instance it is.
            start: how often the orchestrator has started.

        Raises:
            CircuitOpenError: not now.
        """
        with self._lock:
            begun = self._monotonic()
            line = self._line(instance, address, start)
            of_tenant = self._tenant(tenant, begun)
            self._check(line, of_tenant, begun)
            prompt = line.prompt
            line.calls += 1
            of_tenant.calls += not prompt
        answered = True
        try:
            yield line.client
        except client.TransportError:
            answered = False
            raise
        finally:
            with self._lock:
                now = self._monotonic()
                line.calls -= 1
                of_tenant.calls -= not prompt
                slow = now - begun >= _SLOW
                line.prompt = answered and not slow
                if slow:
                    of_tenant.watched_until = now + _WATCHED
                # Who refuses a connection costs nobody a thread: a container that is about to be up again, mostly.
                line.failures = line.failures + 1 if slow and not answered else 0
                if line.failures:
                    line.free_at = now + _PAUSES.delay(line.failures)

    def _check(self, line: _Circuit, tenant: _Tenant, now: float) -> None:
        if now < line.free_at:
            raise CircuitOpenError(
                "it has not answered; left alone for a while", address=line.address, seconds=line.free_at - now
            )
        if line.calls >= (self._at_once if line.prompt else 1):
            raise CircuitOpenError("it is being called already", address=line.address, seconds=_APART)
        if not line.prompt and now < tenant.watched_until and tenant.calls >= self._share:
            # Appointments lie apart, so that those who were put off do not all come at once, again and again.
            tenant.appointment = min(max(tenant.appointment, now) + _APART, now + _PAUSES.longest)
            raise CircuitOpenError(
                "its tenant's orchestrators keep others waiting", address=line.address, seconds=tenant.appointment - now
            )

    def _line(self, instance: str, address: str, start: int) -> _Circuit:
        line = self._lines.get(instance)
        if line is None or line.address != address or line.start < start:
            # Calls to the one before end on the line that they began on.
            self._close(instance)
            self._make_room()
            line = self._lines[instance] = _Circuit(self._connect(address), address, start)
        self._lines.move_to_end(instance)
        return line

    def close(self, instance: str) -> None:
        """Close the line to an orchestrator that is gone."""
        with self._lock:
            self._close(instance)

    def close_all(self) -> None:
        """Close every line."""
        with self._lock:
            for instance in list(self._lines):
                self._close(instance)

    def _close(self, instance: str) -> None:
        line = self._lines.pop(instance, None)
        if line is not None:
            line.client.close()

    def _make_room(self) -> None:
        if len(self._lines) >= _MOST:
            oldest = next((each for each, line in self._lines.items() if not line.calls), None)
            if oldest is not None:
                self._close(oldest)

    def _tenant(self, tenant: str, now: float) -> _Tenant:
        found = self._tenants.get(tenant)
        if found is None:
            for name in [name for name, each in self._tenants.items() if not each.calls and each.watched_until <= now]:
                del self._tenants[name]
            found = self._tenants[tenant] = _Tenant()
        return found
