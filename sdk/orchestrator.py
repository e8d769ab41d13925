"""The class that an orchestrator's author derives from: Hurtle's Execution and Decision in one.

As it is, it does everything for a bundle that has only a manifest and templates: suppliers first, then a stack in each region,
outputs shown as attributes, all taken down in the reverse order. An author overrides what differs, and calls `super()` for the
rest.
Methods run one at a time, so an author needs no locks; each may be run again after a crash, so each says what should be rather
than what to add.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import bundles
from archelon_api import service_manager as wire
from occi_service.model import type_id

from .catalogue import Design
from .cloud_names import CloudNames
from .deployment import Deployment, Resource, Stack
from .disposal import Disposal
from .dns import Dns, NameServer
from .errors import Failure
from .events import Action, Alarm, Event, IdempotencyScope, Tick
from .instance import Instance, typed
from .monitoring import Runtime
from .ports import ServiceClients, Waiter
from .private_state import Private
from .provisioning import Provisioning
from .resolver import Resolver, Supplier

#: Heat's words, the least successful first; the state of several stacks is that of the worst.
_WORST_FIRST: Final = ("FAILED", "ROLLBACK", "IN_PROGRESS", "COMPLETE")


@dataclasses.dataclass(frozen=True, slots=True)
class Details:
    """What is told of an instance beside its phase.

    Attributes:
        stack_state: Heat's words; of several stacks the least successful.
        stack_id: `region:id`, joined by commas.
        outputs: by name.
        links: what it uses and runs on, as `report` takes them.
    """

    stack_state: str = ""
    stack_id: str = ""
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    links: tuple[Mapping[str, Any], ...] = ()


class Situation:
    """What an orchestrator is made in; the SDK builds it. `instance` changes with every order.

    Args:
        names: keeps them; None for the name server of the instance's region.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        bundle: bundles.Bundle,
        services: ServiceClients,
        waiter: Waiter,
        names: NameServer | None,
        private: Private,
        scope: IdempotencyScope,
    ) -> None:
        self.instance = instance
        self.bundle = bundle
        self.services = services
        self.waiter = waiter
        self.names = names
        self.private = private
        self.scope = scope


class Orchestrator:
    """Carries one instance through its life.

    Attributes:
        Parameters: a dataclass that an author may set; `self.parameters` is then one of these, and checked.
        tick: seconds between calls of `on_tick` while the instance is active; None for none.
        design, deployment, provisioning, runtime, disposal: the cloud controller's modules.
        resolver: instances of other services.
        dns: names.
        log: goes to the instance's log.
    """

    Parameters: ClassVar[Any] = None
    tick: ClassVar[float | None] = None

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self.design = Design(situation.services, self._instance)
        self.deployment = Deployment(
            self.design, self._instance, bundle=situation.bundle, waiter=situation.waiter, scope=situation.scope
        )
        self.provisioning = Provisioning(self.design, self._instance, bundle=situation.bundle, waiter=situation.waiter)
        self.runtime = Runtime(self.design, self._instance, waiter=situation.waiter)
        self.disposal = Disposal(self.design, self._instance)
        self.resolver = Resolver(
            self.design,
            self._instance,
            manifest=situation.bundle.manifest,
            waiter=situation.waiter,
            ordered=situation.private.suppliers,
        )
        server = situation.names or CloudNames(self.design, self._instance, waiter=situation.waiter)
        self.dns = Dns(server, situation.instance.id)
        self.log = logging.getLogger(f"archelon.orchestrator.{situation.bundle.manifest.term}")

    def _instance(self) -> Instance:
        return self._situation.instance

    @property
    def instance(self) -> Instance:
        """The instance, as the present order has it."""
        return self._situation.instance

    @property
    def manifest(self) -> bundles.Manifest:
        """The service's manifest."""
        return self._situation.bundle.manifest

    @property
    def parameters(self) -> Any:
        """The tenant's attributes by name, or as `Parameters` where the author has set that (Failure if they do not fit)."""
        if self.Parameters is None:
            return self.instance.parameters
        return typed(self.Parameters, self.instance.parameters)

    @property
    def internal(self) -> Mapping[str, Any]:
        """The provider's parameters for the present phase (`service_params`)."""
        return self.instance.internal

    @property
    def state(self) -> dict[str, Any]:
        """The author's own, kept beyond this process: what JSON can hold, at most 256 KiB with `outputs`."""
        return self._situation.private.state

    @property
    def outputs(self) -> dict[str, Any]:
        """What the author publishes as attributes beside the stacks' outputs, and in their place; kept as `state` is."""
        return self._situation.private.outputs

    # phases -----------------------------------------------------------------------------------------------------------

    def activate(self) -> None:
        """Called at every start, before anything else: prepare, and call nothing slow. Hurtle's *design* phase."""

    def deploy(self) -> None:
        """Make the suppliers and the stacks, and wait until they stand."""
        self.deployment.deploy(self._values(self.resolver.resolve()))

    def provision(self) -> None:
        """Configure what stands: the manifest's templates for provisioning, where it has some."""
        if self._provisions():
            self.deployment.deploy(self._values(self.resolver.suppliers()), provision=True)

    def update(self) -> None:
        """Make everything what the parameters now say."""
        self.deployment.deploy(self._values(self.resolver.resolve()), provision=self._provisions())

    def stop(self) -> None:
        """Stop what runs, keeping it. Suppliers go on."""
        self.deployment.suspend()

    def start(self) -> None:
        """Start it again."""
        self.deployment.resume()

    def dispose(self) -> None:
        """Take everything down, in the reverse order of making: what the author named, names, stacks, suppliers."""
        self.disposal.run_steps()
        self.dns.dispose()
        self.deployment.dispose()
        self.resolver.dispose()

    # between phases ---------------------------------------------------------------------------------------------------

    def on_alarm(self, alarm: Alarm) -> None:
        """An alarm fires."""
        self.log.info("the alarm %s fires, and nothing is done about it", alarm.name)

    def on_calm(self, alarm: Alarm) -> None:
        """An alarm fires no longer."""

    def on_tick(self, tick: Tick) -> None:
        """`tick` seconds have passed."""

    def on_action(self, action: Action) -> None:
        """The tenant invoked an action that the manifest declares. By default the method `action_<name>` is called with it.

        Raises:
            Failure: the orchestrator has no such method.
        """
        method = getattr(self, f"action_{action.name.replace('-', '_')}", None)
        if method is None:
            raise Failure(f"this orchestrator does nothing for the action {action.name}")
        method(action)

    def notify(self, event: Event) -> None:
        """A stack or a supplier has changed. A phase that waits for it is woken without this."""

    # what is told -----------------------------------------------------------------------------------------------------

    def details(self) -> Details:
        """What is told of the instance with every report; Hurtle's *state*. The stacks are looked at for it."""
        stacks = self.deployment.stacks()
        outputs: dict[str, Any] = {}
        regions = {each.region for each in stacks}
        for each in stacks:
            for name, value in each.outputs.items():
                # Hurtle's way over several regions.
                outputs[f"{name}.{each.region}" if len(regions) > 1 else name] = value
        return Details(
            stack_state=_least_successful(stacks),
            stack_id=",".join([f"{each.region}:{each.id}" for each in stacks]),
            outputs={**outputs, **self.outputs},
            links=(*self._resource_links(stacks), *_dependency_links(self.resolver.suppliers())),
        )

    def _resource_links(self, stacks: list[Stack]) -> list[Mapping[str, Any]]:
        url = self.deployment.url if stacks else ""
        return [_resource_link(url, stack, resource) for stack in stacks for resource in stack.resources]

    def _values(self, suppliers: Mapping[str, Supplier]) -> dict[str, Any]:
        """Parameters for templates beside the instance's own: the suppliers' attributes, and what the author publishes."""
        return {**self.resolver.values(suppliers), **self.outputs}

    def _provisions(self) -> bool:
        manifest = self.manifest
        regional = [each.templates for each in manifest.resources.values() if each.templates is not None]
        return any(each.provision for each in (*manifest.templates.values(), *regional))


def _resource_link(url: str, stack: Stack, resource: Resource) -> Mapping[str, Any]:
    link = {
        "target": f"{url}{stack.path}#{resource.name}",
        "kind": type_id(wire.RESOURCE_LINK),
        "title": resource.name,
        "type": resource.type,
        "state": resource.state,
    }
    return {**link, "target_kind": wire.INFRASTRUCTURE + resource.kind} if resource.kind else link


def _dependency_links(suppliers: Mapping[str, Supplier]) -> list[Mapping[str, Any]]:
    return [
        {
            "target": each.url,
            "kind": type_id(wire.DEPENDENCY),
            "title": each.type.rpartition("#")[2],
            "dependency": True,
        }
        for each in suppliers.values()
    ]


def _least_successful(stacks: list[Stack]) -> str:
    def badness(state: str) -> int:
        return next((place for place, word in enumerate(_WORST_FIRST) if word in state), len(_WORST_FIRST))

    return min([each.state for each in stacks], key=badness, default="")
