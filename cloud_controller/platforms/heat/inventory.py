"""What Heat has of an instance, found by the tags that every stack carries, whoever made it and whether or not a row tells of
it.

Heat shows a project's stacks to those who act in it, and nobody here may look into all of them. So what belongs to instances
that nobody knows is found in the projects of tenants that have instances; a tenant without any has no delegation left to look
with, and its last instance's disposal has verified that nothing was left.
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
    """Something that was found: of which instance and installation its mark says it is, and when it last changed, in seconds
    since the epoch."""

    instance: str
    installation: str
    changed: float


class TenantInventory(abc.ABC):
    """Inventory of a service that shows a project's objects to those who act in it.

    Args:
        book: whose an instance is, and which tenants can be asked for.
        clock: seconds since the epoch.
    """

    def __init__(self, index: StackIndex, *, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock
        #: Who can be asked for an instance that no row tells of.
        self._found: dict[str, Labels] = {}

    @abc.abstractmethod
    def _held(self, labels: Labels) -> Iterable[Held]:
        """Everything with a mark of ours in a tenant's project; nothing where nobody can ask."""

    def instances(self, installation: str) -> Mapping[str, float]:
        """An installation's instances in the projects of known tenants, with their youngest objects' ages in seconds."""
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
        """With whose rights an instance's objects can be looked at; None where neither a row tells nor anything was seen."""
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
            told, _ = labels_of(each.tags)
            yield Held(told.instance, told.installation, seconds(each.updated_time or each.creation_time))

    def objects(self, instance: str) -> Sequence[str]:
        """The instance's stacks."""
        return [f"stack {each.stack_name}" for each in self._stacks(instance)]

    def remove(self, instance: str) -> bool:
        """Delete them; True when they are gone."""
        left = self._stacks(instance)
        for each in left:
            if each.stack_status == "DELETE_IN_PROGRESS" and not is_deletion_stalled(each, self._clock()):
                continue
            try:
                self._call(instance, _deletion(each))
            except DeployError as problem:
                raise InventoryError(f"the stack {each.stack_name} cannot be deleted: {problem}") from problem
            if each.stack_status == "DELETE_FAILED":
                # It is being deleted anew; that it failed before is what people need to know meanwhile.
                raise InventoryError(f"the stack {each.stack_name}: {each.stack_status_reason}")
        return not left

    def remains(self, instance: str) -> Sequence[str]:
        """The stacks that there still are, with their state."""
        return [f"stack {each.stack_name} {each.stack_status}" for each in self._stacks(instance)]

    def _stacks(self, instance: str) -> list[Any]:
        tag = instance_tag(instance)
        if self._labels(instance) is None:
            # Neither a row nor a stack that was seen here is of it; a disposal has a row of its own.
            return []
        try:
            found = self._call(instance, lambda client: list(client.stacks.list(tags=tag)))
        except NeverDelegatedError as problem:
            if any(each.labels.instance == instance for each in self._index.all()):
                raise InventoryError(f"Heat cannot be asked for it: {problem}") from problem
            # Nobody ever could make something here in its tenant's name.
            return []
        except DeployError as problem:
            # Whatever the rows say: who cannot be asked has not said that there is nothing.
            raise InventoryError(f"Heat cannot be asked for it: {problem}") from problem
        return [each for each in found if each.stack_status != _GONE]

    def _call(self, instance: str, do: Callable[[Client], Any]) -> Any:
        labels = self._labels(instance)
        if labels is None:
            raise DeployError(f"nothing tells whose the instance {instance[:64]} is")
        return self._connections.call(labels, do)


class AllInventory:
    """What several have of an instance, as one."""

    def __init__(self, *each: Inventory) -> None:
        self._each = each

    def instances(self, installation: str) -> Mapping[str, float]:
        """Every instance of an installation, with its youngest object's age in seconds."""
        ages: dict[str, float] = {}
        for inventory in self._each:
            for instance, age in inventory.instances(installation).items():
                ages[instance] = min(ages.get(instance, age), age)
        return ages

    def objects(self, instance: str) -> Sequence[str]:
        """What they have."""
        return [name for inventory in self._each for name in inventory.objects(instance)]

    def remove(self, instance: str) -> bool:
        """Take all of it away, what the first has first; True when it is gone."""
        return all(inventory.remove(instance) for inventory in self._each)

    def remains(self, instance: str) -> Sequence[str]:
        """What is left."""
        return [name for inventory in self._each for name in inventory.remains(instance)]


def _deletion(stack: Any) -> Callable[[Client], None]:
    def delete(client: Client) -> None:
        with contextlib.suppress(NotFoundError):
            client.stacks.delete(f"{stack.stack_name}/{stack.id}")

    return delete
