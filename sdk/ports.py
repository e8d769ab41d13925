"""What an orchestrator needs of the outside: other services over OCCI, and time.

`runtime` implements them for life, `testing` for tests; nothing above them knows which it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from occi_service.client import Entity


class Service(Protocol):
    """One OCCI service; `occi_service.client.Client` is one. Paths are relative to where it is mounted.

    All raise `occi_service.client.ClientError`.
    """

    def get(self, path: str) -> Entity:
        """An entity."""

    def put(
        self, path: str, what: str, attributes: Mapping[str, Any] | None = None, *, mixins: Iterable[str] = ()
    ) -> tuple[Entity, bool]:
        """Create an entity at a path, or replace it; whether it was created."""

    def update(self, path: str, attributes: Mapping[str, Any] | None = None) -> Entity:
        """Change an entity in part."""

    def act(self, path: str, action: str, attributes: Mapping[str, Any] | None = None) -> Entity:
        """Invoke an action."""

    def delete(self, path: str) -> None:
        """Delete an entity."""

    def list(self, collection: str = "/", *, attributes: Mapping[str, Any] | None = None) -> Iterator[Entity]:
        """The entities of a collection that have these attributes."""


class ServiceClients(Protocol):
    """Ways to other services, each with the token that it takes."""

    @property
    def own_url(self) -> str:
        """The instance's own URL at its service manager."""

    def design(self) -> Service:
        """The design module, where the catalogue is."""

    def cloud(self, url: str) -> Service:
        """A module of the cloud controller."""

    def supplier(self, url: str, exchange: Callable[[], str] | None) -> Service:
        """A service manager, with a token of `exchange`, or the instance's own where it is the one that gave it.

        What `exchange` raises for the first token, this raises; later it is asked again as soon as a token has ended.
        """


class Waiter(Protocol):
    """Time, as an orchestrator spends it."""

    def now(self) -> float:
        """Seconds that only grow."""

    def wait(self, seconds: float) -> None:
        """Wait so long, or until something is told that somebody may be waiting for. Raises Abandoned."""

    def check(self) -> None:
        """Raise Abandoned where a newer order has come."""
