"""The base class of orchestrators: Hurtle's Execution and Decision in one.

The defaults suffice for a bundle that has only a manifest and templates: suppliers first, then a stack in each region, outputs
published as attributes, all removed in reverse order. An author overrides what differs, and calls `super()` for the rest.
Methods run one at a time, so an author needs no locks; each may run again after a crash, so each states a desired state, not a
difference.
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

#: Heat's statuses, the least successful first; the state of several stacks is that of the worst.
_WORST_FIRST: Final = ("FAILED", "ROLLBACK", "IN_PROGRESS", "COMPLETE")


@dataclasses.dataclass(frozen=True, slots=True)
class Details:
    """The reported details of an instance, beside its phase.

    Attributes:
        stack_state: in Heat's terms; of several stacks, the least successful.
        stack_id: `region:id`, joined by commas.
        outputs: by name.
        links: to suppliers and resources, as `report` takes them.
        health: healthy, degraded (it works, but something is missing) or down; health_message: what is wrong, for the tenant.
    """

    stack_state: str = ""
    stack_id: str = ""
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    links: tuple[Mapping[str, Any], ...] = ()
    health: str = "healthy"
    health_message: str = ""


@dataclasses.dataclass
class OrchestratorContext:
    """The collaborators of an orchestrator; the SDK builds it. `instance` changes with every order.

    Attributes:
        names: the name server; None for that of the instance's region.
    """

    instance: Instance
    _: dataclasses.KW_ONLY
    bundle: bundles.Bundle
    services: ServiceClients
    waiter: Waiter
    names: NameServer | None
    private: Private
    scope: IdempotencyScope


class Orchestrator:
    """Carries one instance through its lifecycle.

    Attributes:
        Parameters: a dataclass that an author may set; `self.parameters` is then an instance of it, checked.
        tick: seconds between calls of `on_tick` while the instance is active; None for none.
        design, deployment, provisioning, runtime, disposal: the cloud controller's modules.
        resolver: instances of other services.
        dns: DNS names.
        log: writes to the instance's log.
    """

    Parameters: ClassVar[Any] = None
    tick: ClassVar[float | None] = None

    def __init__(self, context: OrchestratorContext) -> None:
        self._context = context
        bundle, waiter = context.bundle, context.waiter
        self.design = Design(context.services, self._instance)
        self.deployment = Deployment(self.design, self._instance, bundle=bundle, waiter=waiter, scope=context.scope)
        self.provisioning = Provisioning(self.design, self._instance, bundle=bundle, waiter=waiter)
        self.runtime = Runtime(self.design, self._instance, waiter=waiter)
        self.disposal = Disposal(self.design, self._instance)
        self.resolver = Resolver(
            self.design, self._instance, manifest=bundle.manifest, waiter=waiter, ordered=context.private.suppliers
        )
        server = context.names or CloudNames(self.design, self._instance, waiter=waiter)
        self.dns = Dns(server, context.instance.id)
        self.log = logging.getLogger(f"archelon.orchestrator.{bundle.manifest.term}")

    def _instance(self) -> Instance:
        return self._context.instance

    @property
    def instance(self) -> Instance:
        """The instance at the present order."""
        return self._context.instance

    @property
    def manifest(self) -> bundles.Manifest:
        """The service's manifest."""
        return self._context.bundle.manifest

    @property
    def parameters(self) -> Any:
        """The tenant's attributes by name, or as `Parameters` if the author has set it (Failure if they do not fit)."""
        if self.Parameters is None:
            return self.instance.parameters
        return typed(self.Parameters, self.instance.parameters)

    @property
    def internal(self) -> Mapping[str, Any]:
        """The provider's parameters for the present phase (`service_params`)."""
        return self.instance.internal

    @property
    def state(self) -> dict[str, Any]:
        """The author's persistent state: JSON values, at most 256 KiB together with `outputs`."""
        return self._context.private.state

    @property
    def outputs(self) -> dict[str, Any]:
        """Attributes that the author publishes beside the stacks' outputs; they take precedence, and persist like `state`."""
        return self._context.private.outputs

    # phases -----------------------------------------------------------------------------------------------------------

    def activate(self) -> None:
        """Prepare; called first at every start, so it must not block. Hurtle's *design* phase."""

    def deploy(self) -> None:
        """Order the suppliers and the stacks, and wait until they are ready."""
        self.deployment.deploy(self._values(self.resolver.resolve()))

    def provision(self) -> None:
        """Configure the stacks with the manifest's templates for provisioning, if it has some."""
        if self._provisions():
            self.deployment.deploy(self._values(self.resolver.suppliers()), provision=True)

    def has_provisioning(self) -> bool:
        """Return whether `provision` has anything to do; otherwise its success is reported together with that of `deploy`."""
        return type(self).provision is not Orchestrator.provision or self._provisions()

    def update(self) -> None:
        """Bring everything up to date with the parameters."""
        self.deployment.deploy(self._values(self.resolver.resolve()), provision=self._provisions())

    def stop(self) -> None:
        """Stop what runs, and keep it. Suppliers continue."""
        self.deployment.suspend()

    def start(self) -> None:
        """Start what was stopped."""
        self.deployment.resume()

    def dispose(self) -> None:
        """Remove everything, in reverse order: the author's own steps, DNS names, stacks, suppliers."""
        self.disposal.run_steps()
        self.dns.dispose()
        self.deployment.dispose()
        self.resolver.dispose()

    # between phases ---------------------------------------------------------------------------------------------------

    def on_alarm(self, alarm: Alarm) -> None:
        """Handle an alarm that has started firing."""
        self.log.info("alarm %s is firing; no handler", alarm.name)

    def on_calm(self, alarm: Alarm) -> None:
        """Handle an alarm that has stopped firing."""

    def on_tick(self, tick: Tick) -> None:
        """Handle the end of an interval of `tick` seconds."""

    def on_action(self, action: Action) -> None:
        """Handle an action of the manifest that the tenant has invoked. The default calls the method `action_<name>`.

        Raises:
            Failure: the orchestrator has no such method.
        """
        method = getattr(self, f"action_{action.name.replace('-', '_')}", None)
        if method is None:
            raise Failure(f"this orchestrator has no handler for the action {action.name}")
        method(action)

    def notify(self, event: Event) -> None:
        """Handle a change of a stack or a supplier. A waiting phase is notified without this."""

    # reports ----------------------------------------------------------------------------------------------------------

    def details(self) -> Details:
        """Return the details for a report, from the present stacks; Hurtle's *state*."""
        stacks = self.deployment.stacks()
        outputs: dict[str, Any] = {}
        regions = {each.region for each in stacks}
        url = self.deployment.url if stacks else ""
        resources = [_resource_link(url, stack, resource) for stack in stacks for resource in stack.resources]
        suppliers = self.resolver.suppliers()
        problems = [(each.health, each.health_message) for each in stacks if each.health]
        problems += [("down", f"its supplier {each} is gone") for each in self.resolver.lost(suppliers)]
        health, message = wire.worst_health(problems)
        for each in stacks:
            for name, value in each.outputs.items():
                # Hurtle's names for outputs of several regions.
                outputs[f"{name}.{each.region}" if len(regions) > 1 else name] = value
        return Details(
            stack_state=_least_successful(stacks),
            stack_id=",".join([f"{each.region}:{each.id}" for each in stacks]),
            outputs={**outputs, **self.outputs},
            links=(*resources, *_dependency_links(suppliers)),
            health=health,
            health_message=message,
        )

    def _values(self, suppliers: Mapping[str, Supplier]) -> dict[str, Any]:
        """Parameters for templates, beside the instance's own: the suppliers' attributes and the published ones."""
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
    def rank(state: str) -> int:
        return next((index for index, part in enumerate(_WORST_FIRST) if part in state), len(_WORST_FIRST))

    return min([each.state for each in stacks], key=rank, default="")
