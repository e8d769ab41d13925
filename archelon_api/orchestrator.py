"""An orchestrator's HTTP interface (Hurtle's): one entity at `/orchestrator/default`, phases as actions, events as `notify`.

A phase action returns at once; its outcome is reported to the service manager (action `report`).

The response to an event (`notify`, `act`) is 200 when the event is processed and the service manager has acknowledged the report
that records it in the private state, if the event requires any work; before that it is 503, with Retry-After. The sender retries
until it gets a 200; a pending event is not accepted twice. So an event survives the process that received it.
"""

from __future__ import annotations

from typing import Final

from occi.core_model import Action, Kind, Resource

from occi_service.attributes import Attribute, whole_number

from .names import GENERATION, INSTANCE, SERVICE, TENANT, attribute

SCHEME: Final = "http://schemas.mobile-cloud-networking.eu/occi/service#"
PATH: Final = "/orchestrator/default"

#: Environment of an orchestrator's process: the instance's id; its URL at the service manager; the URL of design; a start token,
#: which only the service manager accepts, to get fresh ones (`service_manager.RENEW`); the keys of callers' tokens (JWK set); the
#: digest of the bundle that was ordered.
ENV_INSTANCE: Final = "ARCHELON_INSTANCE"
ENV_SERVICE_MANAGER: Final = "ARCHELON_SERVICE_MANAGER"
ENV_DESIGN: Final = "ARCHELON_DESIGN"
ENV_TOKEN: Final = "ARCHELON_TOKEN"  # noqa: S105 - a name
ENV_KEYS: Final = "ARCHELON_KEYS"
ENV_DIGEST: Final = "ARCHELON_BUNDLE_DIGEST"

STACK_STATE: Final = "occi.mcn.stack.state"
STACK_ID: Final = "occi.mcn.stack.id"
PARAMETERS: Final = attribute("parameters")
INTERNAL_PARAMETERS: Final = attribute("internal_parameters")
PRIVATE: Final = attribute("private")
TOKENS: Final = attribute("tokens")
#: In an order that is not sent, but taken (`service_manager.ORDER`): the phases to carry out, one after another, as objects of
#: `phase` and `org.archelon.internal_parameters`.
PHASES: Final = attribute("phases")

EVENT_ID: Final = attribute("event.id")
EVENT_TYPE: Final = attribute("event.type")
EVENT_SUBJECT: Final = attribute("event.subject")
EVENT_DATA: Final = attribute("event.data")
EVENT_TIME: Final = attribute("event.time")
EVENT_TYPES: Final = ("stack", "alarm", "tick", "dependency")

ACTION_NAME: Final = attribute("action.name")
ACTION_ATTRIBUTES: Final = attribute("action.attributes")

_ORDER: Final = {
    GENERATION: Attribute(
        "required",
        type="number",
        pattern=whole_number(),
        description="of the order; a generation older than the last is a 409",
    ),
    PARAMETERS: Attribute("", type="object", secret=True, description="the tenant's attributes"),
    INTERNAL_PARAMETERS: Attribute("", type="object", secret=True, description="provider's parameters for this phase"),
}


def _phase(term: str, title: str) -> Action:
    return Action(SCHEME, term, title, dict(_ORDER))


#: Phases by name. DELETE of the entity is the phase `destroy`.
PHASE_ACTIONS: Final = {
    "deploy": _phase("deploy", "Create the virtual resources"),
    "provision": _phase("provision", "Configure the virtual resources"),
    "update": _phase("update", "Update the virtual resources to the new parameters"),
    "stop": _phase("stop", "Stop the virtual resources, keeping them"),
    "start": _phase("start", "Start the stopped virtual resources"),
}

ACT: Final = Action(
    SCHEME,
    "act",
    "Invoke an action that the service declares",
    {
        **_ORDER,
        EVENT_ID: Attribute("required", description="each id is accepted once; 503 until the event is processed"),
        ACTION_NAME: Attribute("required", description="term of the declared action"),
        ACTION_ATTRIBUTES: Attribute("", type="object", secret=True),
    },
)

NOTIFY: Final = Action(
    SCHEME,
    "notify",
    "Notify of an event; each event.id is accepted once",
    {
        EVENT_ID: Attribute("required", description="503 until the event is processed: retry"),
        EVENT_TYPE: Attribute("required", pattern="|".join(EVENT_TYPES)),
        EVENT_SUBJECT: Attribute("", description="path of the object concerned, such as a stack's"),
        EVENT_DATA: Attribute("", type="object"),
        EVENT_TIME: Attribute("", description="RFC 3339"),
    },
)

ORCHESTRATOR: Final = Kind(
    SCHEME,
    "orchestrator",
    related=[Resource.kind],
    actions=[*PHASE_ACTIONS.values(), ACT, NOTIFY],
    title="Orchestrator of one instance",
    attributes={
        INSTANCE: Attribute("required", description="id of the instance (a UUID)"),
        TENANT: Attribute("required", description="id of the tenant"),
        SERVICE: Attribute("required", description="type identifier of the service"),
        **_ORDER,
        PRIVATE: Attribute("", type="object", secret=True, description="private state of its last report"),
        TOKENS: Attribute("", type="object", secret=True, description="audience to token"),
        STACK_STATE: Attribute("immutable", description="Heat's state"),
        STACK_ID: Attribute("immutable"),
    },
    location="/orchestrator/",
)
