"""Ports of an orchestrator to the outside: other services over OCCI, and time.

`runtime` implements them for production, `testing` for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from occi_service.client import Entity


class Service(Protocol):
    """One OCCI service, such as `occi_service.client.Client`. Paths are relative to its mount point.

    All methods raise `occi_service.client.ClientError`.
    """

    def get(self, path: str) -> Entity:
        """Return an entity."""

    def put(
        self,
        path: str,
        what: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        mixins: Iterable[str] = (),
        read: bool = True,
    ) -> tuple[Entity, bool]:
        """Create an entity at a path, or replace it; return it, and whether it was created.

        Without `read`, a created one has the given attributes alone.
        """

    def update(self, path: str, attributes: Mapping[str, Any] | None = None) -> Entity:
        """Change some attributes of an entity."""

    def act(self, path: str, action: str, attributes: Mapping[str, Any] | None = None) -> Entity:
        """Invoke an action."""

    def delete(self, path: str) -> None:
        """Delete an entity."""

    def list(self, collection: str = "/", *, attributes: Mapping[str, Any] | None = None) -> Iterator[Entity]:
        """Yield the entities of a collection that have these attributes."""


class ServiceClients(Protocol):
    """Clients of other services, each with a token that the service accepts."""

    @property
    def own_url(self) -> str:
        """The instance's own URL at its service manager."""

    def design(self) -> Service:
        """Return the design module, which has the catalogue."""

    def cloud(self, url: str) -> Service:
        """Return a module of the cloud controller."""

    def supplier(self, url: str, exchange: Callable[[], str] | None) -> Service:
        """Return a service manager, called with a token of `exchange`, or without it with the instance's own token.

        `exchange` is called at once, and again whenever a token has expired; its errors are raised.
        """


class Waiter(Protocol):
    """Clock and cancellable waits."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def heard(self, subject: str | None = None) -> int:
        """Return how many notifications have arrived, of the object at a path or of any."""

    def wait(self, seconds: float, heard: int | None = None) -> None:
        """Wait this long, or until a notification arrives; with `heard`, one after so many. Raises Cancelled."""

    def check(self) -> None:
        """Raise Cancelled if a newer order has arrived."""
