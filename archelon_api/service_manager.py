"""The service manager: its additions to every service's kind, the reports of orchestrators, and the history of instances."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from occi.core_model import Action, Kind, Link, Resource

from occi_service.attributes import Attribute, whole_number

from .names import GENERATION, INSTANCE, REGION, SERVICE, attribute, derived_id, scheme

SCHEME: Final = scheme("service-manager")

STATE: Final = "mcn.service.state"
STATE_MESSAGE: Final = "mcn.service.state.message"
BUNDLE_VERSION: Final = attribute("bundle.version")
#: How the instance is at present; `state` is where its last order stands.
HEALTH: Final = attribute("health")
HEALTH_MESSAGE: Final = attribute("health.message")
HEALTH_SINCE: Final = attribute("health.since")
#: From best to worst. `degraded`: it works, but something is missing; `down`: a part that it needs does not work.
HEALTHS: Final = ("healthy", "degraded", "down")
LOCKED: Final = attribute("locked")

#: States of an instance, in the order of its life. `inactive` is stopped, `fail` can be left by retry, update or delete.
STATES: Final = (
    "initialise",
    "activate",
    "deploy",
    "provision",
    "active",
    "update",
    "stop",
    "inactive",
    "start",
    "destroy",
    "fail",
)
#: Phases that an orchestrator carries out and reports on.
PHASES: Final = ("activate", "deploy", "provision", "update", "stop", "start", "destroy")

#: Attributes of every instance, in addition to those that its manifest declares.
INSTANCE_ATTRIBUTES: Final = {
    STATE: Attribute("immutable", pattern="|".join(STATES)),
    STATE_MESSAGE: Attribute("immutable", description="what it waits for, or why it failed, in plain language"),
    "occi.mcn.stack.state": Attribute("immutable", description="Heat's state; the least successful of all regions"),
    "occi.mcn.stack.id": Attribute("immutable", description="region:id,region:id"),
    REGION: Attribute("", description="region to deploy to; default the manifest's regions"),
    BUNDLE_VERSION: Attribute("immutable"),
    GENERATION: Attribute("immutable", type="number"),
    HEALTH: Attribute("immutable", pattern="|".join(HEALTHS), description="present while it is active or changes"),
    HEALTH_MESSAGE: Attribute("immutable", description="what is wrong, in plain language; absent while healthy"),
    HEALTH_SINCE: Attribute("immutable", description="RFC 3339"),
    LOCKED: Attribute("immutable", description="delete or update; absent if it is not locked"),
    INSTANCE: Attribute("immutable", description="its id, and the id of its record"),
}

#: An attribute of the kind of a service that takes no more orders; no instance has a value of it.
WITHDRAWN: Final = attribute("service.withdrawn")

_ACTIONS: Final = scheme("service-manager/action")
STOP: Final = Action(_ACTIONS, "stop", "Stop the instance, keeping its resources")
START: Final = Action(_ACTIONS, "start", "Start a stopped instance")
#: The bundle with which `retry` tries again: the published one of the service, or the one that the instance has.
RETRY_BUNDLE: Final = attribute("retry.bundle")
RETRY: Final = Action(
    _ACTIONS,
    "retry",
    "Retry the failed phase, by default with the bundle that is published now",
    {RETRY_BUNDLE: Attribute("", pattern="published|present", default="published")},
)
LOCK: Final = Action(
    _ACTIONS,
    "lock",
    "Refuse delete, or delete and update, until unlocked",
    {attribute("lock"): Attribute("", pattern="delete|update", default="delete")},
)
UNLOCK: Final = Action(_ACTIONS, "unlock", "Remove the lock")
LIFECYCLE_ACTIONS: Final = (STOP, START, RETRY, LOCK, UNLOCK)

# --- an orchestrator's reports ---------------------------------------------------------------------------------------

PHASE: Final = attribute("phase")
PHASE_STATE: Final = attribute("phase.state")
PHASE_STATES: Final = ("running", "done", "failed")
PHASE_MESSAGE: Final = attribute("phase.message")
PHASE_RETRY: Final = attribute("phase.retry")
#: With `provision`, of an order that was taken: the seconds since `deploy` was done.
PHASE_DEPLOYED: Final = attribute("phase.deployed")
OUTPUTS: Final = attribute("outputs")
PRIVATE: Final = attribute("private")
REPORTED_LINKS: Final = attribute("links")
TOKENS: Final = attribute("tokens")
#: Maximum bytes of an orchestrator's own state, as JSON.
PRIVATE_LIMIT: Final = 256 << 10

REPORT: Final = Action(
    SCHEME,
    "report",
    "Report the state of a phase; with the instance's own token only",
    {
        GENERATION: Attribute("required", type="number", pattern=whole_number()),
        PHASE: Attribute("", pattern="|".join(PHASES), description="omitted if only outputs or private change"),
        PHASE_STATE: Attribute("", pattern="|".join(PHASE_STATES)),
        PHASE_MESSAGE: Attribute("", description="for the tenant, in plain language"),
        PHASE_RETRY: Attribute(
            "", type="boolean", description="false: a failure that no retry of the same order cures"
        ),
        PHASE_DEPLOYED: Attribute(
            "",
            type="number",
            description="seconds since deploy was done, with the first report about provision of an order that was taken",
        ),
        "occi.mcn.stack.state": Attribute(""),
        "occi.mcn.stack.id": Attribute(""),
        HEALTH: Attribute("", pattern="|".join(HEALTHS), description="of what the instance consists of, at present"),
        HEALTH_MESSAGE: Attribute("", description="what is wrong, for the tenant; empty while healthy"),
        OUTPUTS: Attribute("", type="object", secret=True, description="name to value; replaces the previous ones"),
        PRIVATE: Attribute("", type="object", secret=True, description="the orchestrator's own state"),
        REPORTED_LINKS: Attribute(
            "",
            type="array",
            description="objects of target (an absolute URI), kind (a type identifier), title, and a resource's "
            "state, type, target_kind",
        ),
    },
)
#: Digest of the bundle that an orchestrator runs, with its start token: it takes its order in the answer, as `ORDER`.
RENEW_BUNDLE: Final = attribute("bundle.digest")
#: The order: the attributes of an activation, without tokens, and the phases to carry out (`orchestrator.PHASES`).
ORDER: Final = attribute("order")
RENEW: Final = Action(
    SCHEME,
    "renew",
    "Get fresh tokens, with the start token or a valid signed token of the instance",
    {
        RENEW_BUNDLE: Attribute(
            "",
            pattern="[0-9a-f]{64}",
            description="with the start token: what the process runs; the answer may contain its order",
        )
    },
)

# --- the graph of an instance ----------------------------------------------------------------------------------------

#: OCCI's infrastructure (GFD.224): `compute`, `network` and `storage` are the kinds of linked resources.
INFRASTRUCTURE: Final = "http://schemas.ogf.org/occi/infrastructure#"
#: From an instance to one that it uses: the service instance graph.
DEPENDENCY: Final = Kind(SCHEME, "dependency", related=[Link.kind], title="Uses", location="/dependency/")
#: From an instance to a virtual resource of its stacks: the infrastructure instance graph.
RESOURCE_LINK: Final = Kind(
    SCHEME,
    "resource",
    related=[Link.kind],
    title="Runs on",
    attributes={
        attribute("resource.state"): Attribute("immutable"),
        attribute("resource.type"): Attribute("immutable"),
    },
    location="/resource/",
)

# --- catalogue and history -------------------------------------------------------------------------------------------

ROLL: Final = Action(SCHEME, "roll", "Update the service's instances to this bundle, one after another")
PAUSE_ROLL: Final = Action(SCHEME, "pause", "Pause the roll: the instance in progress continues, no further one begins")
RESUME_ROLL: Final = Action(SCHEME, "resume", "Resume the paused roll")
STOP_ROLL: Final = Action(
    SCHEME, "stop", "End the roll: the instance in progress continues, the others keep their bundle"
)
ROLL_ACTIONS: Final = (ROLL, PAUSE_ROLL, RESUME_ROLL, STOP_ROLL)

ROLL_STATE: Final = attribute("roll.state")
ROLL_MESSAGE: Final = attribute("roll.message")
ROLL_TOTAL: Final = attribute("roll.total")
ROLL_DONE: Final = attribute("roll.done")
ROLL_LEFT: Final = attribute("roll.left")
ROLL_LEFTOVERS: Final = attribute("roll.leftovers")
ROLL_CURRENT: Final = attribute("roll.current")
#: States of a roll. It goes on from the first two only: `done` left no instance over, `incomplete` some, `failed` ended at an
#: instance that worked before, and `superseded` at another publication.
ROLL_STATES: Final = ("running", "paused", "done", "incomplete", "failed", "stopped", "superseded")
#: Maximum number of instances in `roll.leftovers`.
ROLL_LEFTOVERS_LIMIT: Final = 100

PUBLISHED: Final = Kind(
    SCHEME,
    "published",
    related=[Resource.kind],
    actions=list(ROLL_ACTIONS),
    title="Published service",
    attributes={
        SERVICE: Attribute("immutable", description="type identifier of the kind"),
        attribute("bundle.digest"): Attribute("required", pattern="[0-9a-f]{64}"),
        BUNDLE_VERSION: Attribute("immutable"),
        attribute("published.by"): Attribute("immutable"),
        attribute("published.at"): Attribute("immutable", description="RFC 3339"),
        attribute("published.state"): Attribute("immutable", pattern="published|replaced|withdrawn"),
        ROLL_STATE: Attribute("immutable", pattern="|".join(ROLL_STATES), description="absent before the first roll"),
        ROLL_MESSAGE: Attribute(
            "immutable", description="why it ended, in plain language; absent if it is done or goes on"
        ),
        ROLL_TOTAL: Attribute("immutable", type="number", description="instances of the roll that still exist"),
        ROLL_DONE: Attribute("immutable", type="number", description="instances that it has updated"),
        ROLL_LEFT: Attribute("immutable", type="number", description="instances that it has left over"),
        ROLL_LEFTOVERS: Attribute(
            "immutable",
            type="array",
            description=f"objects of instance (its id) and reason, at most {ROLL_LEFTOVERS_LIMIT}",
        ),
        ROLL_CURRENT: Attribute(
            "immutable",
            type="object",
            description="the instance in progress: instance (its id), and its bundle's digest and its state before",
        ),
    },
    location="/published/",
)

#: Outcomes of a phase in a record; a phase is overtaken by a DELETE.
HISTORY_STATES: Final = ("running", "done", "failed", "overtaken")
RECORD: Final = Kind(
    SCHEME,
    "record",
    related=[Resource.kind],
    title="History of an instance",
    attributes={
        SERVICE: Attribute("immutable"),
        attribute("instance"): Attribute("immutable"),
        attribute("record.created"): Attribute("immutable", description="RFC 3339"),
        attribute("record.ended"): Attribute("immutable", description="RFC 3339; absent while the instance exists"),
        attribute("record.phases"): Attribute(
            "immutable",
            type="array",
            description=f"objects of phase, generation, start, duration (s), outcome ({', '.join(HISTORY_STATES)}), message",
        ),
        attribute("record.health"): Attribute(
            "immutable",
            type="array",
            description=f"objects of time, health ({', '.join(HEALTHS)}), message; oldest first",
        ),
        attribute("record.audit"): Attribute("immutable", type="array", description="objects that disposal removed"),
    },
    location="/record/",
)


def location_of(type_id: str) -> str:
    """Return the location of a service's kind, or of one of the service manager's own kinds, at a service manager."""
    return f"/{type_id.rpartition('#')[2]}/"


def worst_health(found: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return the worst of these healths, each with its message, and all messages joined; healthy if there are none."""
    known = list(found)
    worst = max([health for health, _ in known], key=HEALTHS.index, default=HEALTHS[0])
    return worst, "; ".join([message for _, message in known if message])


def supplier_path(instance: str, service_type: str, region: str = "") -> str:
    """Return the path of an instance that this one is composed of, at the service manager that serves its type.

    Args:
        region: region named in the manifest; empty for the region of the instance.
    """
    return f"{location_of(service_type)}{derived_id(instance, service_type, region)}"
