"""Deploy: applications (orchestrators in containers), stacks (virtual resources created from a template), bundles by digest."""

from __future__ import annotations

from typing import Final

from occi.core_model import Action, Kind, Mixin, Resource

from occi_service.attributes import Attribute

from .names import LABELS, REGION, attribute, derived_id, scheme
from .service_manager import HEALTHS

SCHEME: Final = scheme("deploy")
#: OCCI Platform (GFD.227).
PLATFORM_SCHEME: Final = "http://schemas.ogf.org/occi/platform#"
_ACTION_SCHEME: Final = "http://schemas.ogf.org/occi/platform/application/action#"

# --- bundles ---------------------------------------------------------------------------------------------------------

#: A bundle is transferred as the archive itself, PUT and GET at its digest's path.
BUNDLE_MEDIA_TYPE: Final = "application/gzip"
BUNDLE_SIZE: Final = attribute("bundle.size")
BUNDLE_UNUSED_SINCE: Final = attribute("bundle.unused_since")
BUNDLE: Final = Kind(
    SCHEME,
    "bundle",
    related=[Resource.kind],
    title="Bundle, identified by its digest",
    attributes={
        BUNDLE_SIZE: Attribute("immutable", type="number", description="bytes"),
        BUNDLE_UNUSED_SINCE: Attribute(
            "immutable", type="number", description="seconds since the epoch; absent while an application runs it"
        ),
    },
    location="/bundle/",
)

# --- applications ----------------------------------------------------------------------------------------------------

APP_NAME: Final = "occi.app.name"
APP_CONTEXT: Final = "occi.app.context"
APP_URL: Final = "occi.app.url"
APP_STATE: Final = "occi.app.state"
APP_STATE_MESSAGE: Final = "occi.app.state.message"
APP_IMAGE: Final = "occi.app.image"
APP_ENV: Final = "occi.app.env"
BUNDLE_DIGEST: Final = attribute("bundle.digest")
BUNDLE_IMAGE: Final = attribute("bundle.image")
APPLICATION_ENV: Final = attribute("application.env")
APPLICATION_HOSTING: Final = attribute("application.hosting")

START: Final = Action(_ACTION_SCHEME, "start", "Start the application")
STOP: Final = Action(_ACTION_SCHEME, "stop", "Stop the application, keeping what it stored")
RESTART: Final = Action(_ACTION_SCHEME, "restart", "Stop the application and start it again")
APPLICATION_ACTIONS: Final = (START, STOP, RESTART)

_APPLICATION_STATE: Final = {
    APP_URL: Attribute("immutable", description="URL of the application"),
    APP_STATE: Attribute("immutable", pattern="active|inactive|error"),
    APP_STATE_MESSAGE: Attribute("immutable", description="reason for its state, in plain language"),
}

APPLICATION: Final = Kind(
    PLATFORM_SCHEME,
    "application",
    related=[Resource.kind],
    actions=list(APPLICATION_ACTIONS),
    title="Application",
    attributes={
        APP_NAME: Attribute("required", description="name for people"),
        APP_CONTEXT: Attribute("immutable", description="URL of what the application is made of"),
        **_APPLICATION_STATE,
    },
    location="/application/",
)

#: Makes an application the orchestrator of an instance.
ORCHESTRATOR: Final = Mixin(
    SCHEME,
    "orchestrator",
    related=[APPLICATION],
    title="Orchestrator of an instance",
    attributes={
        **LABELS,
        BUNDLE_DIGEST: Attribute("", pattern="[0-9a-f]{64}", description="SHA-256 of the bundle that it runs"),
        BUNDLE_IMAGE: Attribute("", description="image that it runs, instead of a bundle"),
        APPLICATION_ENV: Attribute("", type="object", secret=True, description="environment, name to value"),
        APPLICATION_HOSTING: Attribute(
            "", pattern="own", description="own: a process of its own, not one that serves many instances"
        ),
    },
    location="/orchestrator/",
)

#: Header fields of a piece of a log: positions of its first byte, and of the next one to request.
LOG_START: Final = "X-Start"
LOG_NEXT: Final = "X-Next"

#: Hurtle's kind of an application.
APP: Final = Kind(
    PLATFORM_SCHEME,
    "app",
    related=[Resource.kind],
    actions=list(APPLICATION_ACTIONS),
    title="Application (Hurtle)",
    attributes={
        APP_NAME: Attribute("required", pattern=".{1,24}"),
        APP_IMAGE: Attribute("", description="image, or digest of a bundle"),
        APP_ENV: Attribute("", secret=True, description="K=V::K2=V2"),
        "occi.app.repo": Attribute("immutable"),
        **_APPLICATION_STATE,
    },
    location="/app/",
)

# --- stacks ----------------------------------------------------------------------------------------------------------

STACK_NAME: Final = attribute("stack.name")
STACK_FORMAT: Final = attribute("stack.format")
STACK_TEMPLATE: Final = attribute("stack.template")
STACK_SOURCE: Final = attribute("stack.source")
STACK_FILES: Final = attribute("stack.files")
STACK_ENVIRONMENTS: Final = attribute("stack.environments")
STACK_PARAMETERS: Final = attribute("stack.parameters")
STACK_SECRET_PARAMETERS: Final = attribute("stack.secret_parameters")
STACK_ROLLBACK: Final = attribute("stack.rollback")
STACK_STATE: Final = attribute("stack.state")
STACK_REASON: Final = attribute("stack.reason")
STACK_RETRY: Final = attribute("stack.retry")
STACK_ID: Final = attribute("stack.id")
STACK_HEALTH: Final = attribute("stack.health")
STACK_HEALTH_MESSAGE: Final = attribute("stack.health.message")
STACK_OUTPUTS: Final = attribute("stack.outputs")
STACK_RESOURCES: Final = attribute("stack.resources")

SCALE_NODE: Final = attribute("scale.node")
SCALE_COUNT: Final = attribute("scale.count")
SCALE_BY: Final = attribute("scale.by")
SIGNAL_RESOURCE: Final = attribute("signal.resource")
SIGNAL_DATA: Final = attribute("signal.data")
SCALE_KEY: Final = attribute("scale.key")

PREVIEW: Final = Action(
    SCHEME,
    "preview",
    "List what an update would change",
    {
        STACK_TEMPLATE: Attribute("required"),
        STACK_SOURCE: Attribute(""),
        STACK_FILES: Attribute("", type="object"),
        STACK_ENVIRONMENTS: Attribute("", type="array"),
        STACK_PARAMETERS: Attribute("", type="object"),
    },
)
SCALE: Final = Action(
    SCHEME,
    "scale",
    "Change a node's number of instances",
    {
        SCALE_NODE: Attribute("required", description="name of the node in the template"),
        SCALE_COUNT: Attribute("", type="number", description="number of instances"),
        SCALE_BY: Attribute("", type="number", description="number of instances to add, or to remove if negative"),
        SCALE_KEY: Attribute(
            "", pattern="[!-~]{1,255}", description="chosen by the caller; a repeated key changes nothing"
        ),
    },
)
SUSPEND: Final = Action(SCHEME, "suspend", "Stop the stack's resources, keeping them")
RESUME: Final = Action(SCHEME, "resume", "Start the stack's resources again")
SIGNAL: Final = Action(
    SCHEME,
    "signal",
    "Signal a waiting resource of the stack",
    {
        SIGNAL_RESOURCE: Attribute("required", description="its name; in a nested stack, the path to it"),
        SIGNAL_DATA: Attribute("", type="object"),
    },
)
STACK_ACTIONS: Final = (PREVIEW, SCALE, SUSPEND, RESUME, SIGNAL)

STACK: Final = Kind(
    SCHEME,
    "stack",
    related=[Resource.kind],
    actions=list(STACK_ACTIONS),
    title="Stack",
    attributes={
        **LABELS,
        STACK_NAME: Attribute("required", pattern="[A-Za-z][A-Za-z0-9_.-]{0,62}"),
        REGION: Attribute("required", description="where it is deployed; cannot change"),
        STACK_FORMAT: Attribute("required", description="infrastructure, hot or kubernetes; cannot change"),
        STACK_TEMPLATE: Attribute("required", description="the template as text"),
        STACK_SOURCE: Attribute(
            "", description="the template's path in its bundle; names in the template are relative to it"
        ),
        STACK_FILES: Attribute("", type="object", description="other files that the template names, path to text"),
        STACK_ENVIRONMENTS: Attribute("", type="array", description="paths of Heat's environments among the files"),
        STACK_PARAMETERS: Attribute("", type="object"),
        STACK_SECRET_PARAMETERS: Attribute("", type="object", secret=True),
        STACK_ROLLBACK: Attribute("", type="boolean", default=True, description="roll back a failed create"),
        STACK_STATE: Attribute("immutable", description="Heat's state, such as CREATE_COMPLETE"),
        STACK_REASON: Attribute("immutable"),
        STACK_RETRY: Attribute(
            "immutable", type="boolean", description="false: the platform would refuse the same order again"
        ),
        STACK_ID: Attribute("immutable", description="the platform's own id"),
        STACK_HEALTH: Attribute(
            "immutable", pattern="|".join(HEALTHS), description="how it is at present; absent until it is created"
        ),
        STACK_HEALTH_MESSAGE: Attribute("immutable", description="what is wrong; absent while healthy"),
        # Only the template's author knows which of them are secret, so none is listed, and all are encrypted.
        STACK_OUTPUTS: Attribute("immutable", type="object", secret=True),
        STACK_RESOURCES: Attribute("immutable", type="array", description="objects of name, type, id, state, kind"),
    },
    location="/stack/",
)


def bundle_path(digest: str) -> str:
    """Return the path of a bundle."""
    return f"{BUNDLE.location}{digest}"


def application_path(instance: str) -> str:
    """Return the path of an instance's orchestrator, an application."""
    return f"{APPLICATION.location}{instance}"


def stack_path(instance: str, name: str, region: str) -> str:
    """Return the path of one of an instance's stacks."""
    return f"{STACK.location}{derived_id(instance, name, region)}"
