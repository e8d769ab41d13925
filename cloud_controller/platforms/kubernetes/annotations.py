"""Names, labels and annotations of the objects that Archelon creates in a cluster.

Label values hold 63 characters of a small alphabet; ids of instances, tenants and service types may be longer. A value that does
not fit is stored as a digest in the label, which selectors use, and in full in an annotation of the same name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from ...core.labels import Labels

_OURS: Final = "archelon.org/"
INSTANCE: Final = _OURS + "instance"
TENANT: Final = _OURS + "tenant"
SERVICE: Final = _OURS + "service"
GENERATION: Final = _OURS + "generation"
REGION: Final = _OURS + "region"
INSTALLATION: Final = _OURS + "installation"
STACK: Final = _OURS + "stack"
#: The node of an infrastructure description, and one instance of it.
NODE: Final = _OURS + "node"
NODE_KEY: Final = _OURS + "node-key"
#: Annotation: digest of the fields whose change recreates an object.
REVISION: Final = _OURS + "revision"
COMPONENT: Final = "app.kubernetes.io/component"
MANAGED: Final = "app.kubernetes.io/managed-by"
_WE: Final = "archelon"
#: Components: an instance's orchestrator; an object of a stack's template; the pods and claims that the cluster creates from it.
ORCHESTRATOR: Final = "orchestrator"
OBJECT: Final = "stack"
POD: Final = "pod"
CLAIM: Final = "claim"

_LABEL: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_DNS: Final = re.compile(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?")


def label(value: str) -> str:
    """Return the value, or a digest of it if it is not a valid label value."""
    return value if _LABEL.fullmatch(value) else "sha-" + hashlib.sha256(value.encode()).hexdigest()[:40]


def dns_name(prefix: str, value: str) -> str:
    """Return an object name: prefix and value, or prefix and digest if that is not a valid name."""
    name = f"{prefix}-{value}"
    return name if _DNS.fullmatch(name) else f"{prefix}-{hashlib.sha256(value.encode()).hexdigest()[:32]}"


def labels_of(labels: Labels, *, region: str, component: str, **more: str) -> dict[str, str]:
    """Return the labels of an object.

    Args:
        more: further labels, by the lower-case names of the constants, such as `stack`.
    """
    term = labels.service.rpartition("#")[2] or labels.service.rpartition("/")[2]
    return {
        "app.kubernetes.io/name": label(term or "orchestrator"),
        "app.kubernetes.io/instance": label(labels.instance),
        COMPONENT: component,
        "app.kubernetes.io/part-of": label(term or "archelon"),
        MANAGED: _WE,
        INSTANCE: label(labels.instance),
        TENANT: label(labels.tenant),
        SERVICE: label(labels.service),
        GENERATION: str(labels.generation),
        REGION: label(region),
        **({INSTALLATION: label(labels.installation)} if labels.installation else {}),
        **{_OURS + name.replace("_", "-"): label(value) for name, value in more.items()},
    }


def annotations_of(labels: Labels) -> dict[str, str]:
    """Return the values that do not fit into a label, for annotations of the same names."""
    values = {INSTANCE: labels.instance, TENANT: labels.tenant, SERVICE: labels.service}
    return {name: value for name, value in values.items() if label(value) != value}


def instance_of(metadata: Mapping[str, Any]) -> str:
    """Return the instance that an object belongs to, or an empty string."""
    labelled = str((metadata.get("labels") or {}).get(INSTANCE) or "")
    annotated = str((metadata.get("annotations") or {}).get(INSTANCE) or "")
    # Only an annotation that matches the label counts.
    return annotated if annotated and label(annotated) == labelled else labelled


def selector(region: str, **wanted: str) -> str:
    """Return a label selector for Archelon's objects in a region, by the lower-case names of the constants (`instance`)."""
    parts = [f"{MANAGED}={_WE}", f"{REGION}={label(region)}"]
    for name, value in wanted.items():
        key = COMPONENT if name == "component" else _OURS + name.replace("_", "-")
        parts.append(f"{key}={label(value)}")
    return ",".join(parts)
