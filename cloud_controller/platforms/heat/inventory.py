"""Inventory of a Heat region: finds an instance's stacks by their tags, with or without a database row.

Heat lists stacks per project, and the cloud controller cannot list all projects. Stacks of unknown instances are therefore
found in the projects of tenants that have known instances. A tenant without instances has no delegation left to list with; the
disposal of its last instance verified that nothing remained.
"""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from heatclient.v1.client import Client

from ...core.labels import Labels
from ..interface import DeployError, Inventory, InventoryError, NeverDelegatedError, StackIndex
from .connection import HeatConnections, NotFoundError
from .orders import OURS, instance_tag, labels_of
from .resources import is_deletion_stalled, seconds

_GONE: Final = "DELETE_COMPLETE"


@dataclass(frozen=True)
class Held:
    """An object's instance and installation, from its labels, and its last change in seconds since the epoch."""

    instance: str
    installation: str
    changed: float


class TenantInventory(abc.ABC):
    """Inventory of a service that lists objects per project.

    Args:
        index: labels of known instances, and with them the tenants' projects.
        clock: seconds since the epoch.
    """

    def __init__(self, index: StackIndex, *, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock
        #: Labels, by unknown instance, whose delegation reaches its project.
        self._found: dict[str, Labels] = {}

    @abc.abstractmethod
    def _held(self, labels: Labels) -> Iterable[Held]:
        """Yield our labelled objects in a tenant's project; none without a delegation."""

    def instances(self, installation: str) -> Mapping[str, float]:
        """Return an installation's instances in the projects of known tenants, with their youngest object's age in seconds."""
        ages: dict[str, float] = {}
        now = self._clock()
        for labels in {each.labels.tenant: each.labels for each in self._index.all()}.values():
            for each in self._held(labels):
                if not each.instance or each.installation != installation:
                    continue
                age = max(0.0, now - each.changed)
                ages[each.instance] = min(ages.get(each.instance, age), age)
                self._found[each.instance] = labels
        return ages

    def _labels(self, instance: str) -> Labels | None:
        """Return the labels with whose rights an instance's objects are listed; None for an unknown instance without objects."""
        return self._index.labels(instance) or self._found.get(instance)


class HeatInventory(TenantInventory):
    """Stacks of one region."""

    def __init__(
        self, connections: HeatConnections, index: StackIndex, *, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(index, clock=clock)
        self._connections = connections

    def _held(self, labels: Labels) -> Iterable[Held]:
        try:
            listed = self._connections.call(labels, lambda client: list(client.stacks.list(tags=OURS)))
        except DeployError:
            return
        for each in listed:
            tagged, _ = labels_of(each.tags)
            yield Held(tagged.instance, tagged.installation, seconds(each.updated_time or each.creation_time))

    def objects(self, instance: str) -> Sequence[str]:
        """List the instance's stacks."""
        return [f"stack {each.stack_name}" for each in self._stacks(instance)]

    def remove(self, instance: str) -> bool:
        """Delete the stacks; True once they are gone."""
        left = self._stacks(instance)
        for each in left:
            if each.stack_status == "DELETE_IN_PROGRESS" and not is_deletion_stalled(each, self._clock()):
                continue
            try:
                self._call(instance, _deletion(each))
            except DeployError as problem:
                raise InventoryError(f"the stack {each.stack_name} cannot be deleted: {problem}") from problem
            if each.stack_status == "DELETE_FAILED":
                # The deletion has been retried; report the earlier failure meanwhile.
                raise InventoryError(f"the stack {each.stack_name}: {each.stack_status_reason}")
        return not left

    def remains(self, instance: str) -> Sequence[str]:
        """List the remaining stacks with their state."""
        return [f"stack {each.stack_name} {each.stack_status}" for each in self._stacks(instance)]

    def _stacks(self, instance: str) -> list[Any]:
        tag = instance_tag(instance)
        if self._labels(instance) is None:
            # No row and no stack was found for it; a disposal has a row of its own.
            return []
        try:
            found = self._call(instance, lambda client: list(client.stacks.list(tags=tag)))
        except NeverDelegatedError as problem:
            if any(each.labels.instance == instance for each in self._index.all()):
                raise InventoryError(f"Heat cannot be queried: {problem}") from problem
            # Without a delegation no stack can have been created for its tenant.
            return []
        except DeployError as problem:
            # A failed query does not prove absence, whatever the database rows are.
            raise InventoryError(f"Heat cannot be queried: {problem}") from problem
        return [each for each in found if each.stack_status != _GONE]

    def _call(self, instance: str, do: Callable[[Client], Any]) -> Any:
        labels = self._labels(instance)
        if labels is None:
            raise DeployError(f"the owner of the instance {instance[:64]} is unknown")
        return self._connections.call(labels, do)


class AllInventory:
    """Combines several inventories into one."""

    def __init__(self, *inventories: Inventory) -> None:
        self._inventories = inventories

    def instances(self, installation: str) -> Mapping[str, float]:
        """Return every instance of an installation, with its youngest object's age in seconds."""
        ages: dict[str, float] = {}
        for inventory in self._inventories:
            for instance, age in inventory.instances(installation).items():
                ages[instance] = min(ages.get(instance, age), age)
        return ages

    def objects(self, instance: str) -> Sequence[str]:
        """List the instance's objects."""
        return [name for inventory in self._inventories for name in inventory.objects(instance)]

    def remove(self, instance: str) -> bool:
        """Remove everything, in the order of the inventories; True once all is gone."""
        return all(inventory.remove(instance) for inventory in self._inventories)

    def remains(self, instance: str) -> Sequence[str]:
        """List the remaining objects."""
        return [name for inventory in self._inventories for name in inventory.remains(instance)]


def _deletion(stack: Any) -> Callable[[Client], None]:
    def delete(client: Client) -> None:
        with contextlib.suppress(NotFoundError):
            client.stacks.delete(f"{stack.stack_name}/{stack.id}")

    return delete
