"""Names and labels of what is made on a cluster.

Kubernetes' labels hold 63 characters of a small alphabet; ids of instances, tenants and service types may hold others. A value
that does not fit stands as a digest in the label, which is what is selected by, and as itself in an annotation of the same name.
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
#: Of a description's node: its name, and the instance of it.
NODE: Final = _OURS + "node"
NODE_KEY: Final = _OURS + "node-key"
#: Digest of what a change of makes an object anew; an annotation.
REVISION: Final = _OURS + "revision"
COMPONENT: Final = "app.kubernetes.io/component"
MANAGED: Final = "app.kubernetes.io/managed-by"
_WE: Final = "archelon"
#: Components: an instance's orchestrator; what a stack's template has; what the cluster makes of that.
ORCHESTRATOR: Final = "orchestrator"
OBJECT: Final = "stack"
POD: Final = "pod"
CLAIM: Final = "claim"

_LABEL: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_DNS: Final = re.compile(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?")


def label(value: str) -> str:
    """The value, or where it cannot be a label's, a digest of it."""
    return value if _LABEL.fullmatch(value) else "sha-" + hashlib.sha256(value.encode()).hexdigest()[:40]


def dns_name(prefix: str, value: str) -> str:
    """A name for an object: the value behind the prefix, or where that cannot be a name, a digest of it."""
    name = f"{prefix}-{value}"
    return name if _DNS.fullmatch(name) else f"{prefix}-{hashlib.sha256(value.encode()).hexdigest()[:32]}"


def marks(labels: Labels, *, region: str, component: str, **more: str) -> dict[str, str]:
    """The labels of an object.

    Args:
        more: further ones, by the constants' names in small letters, such as `stack`.
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
    """What does not fit into a label, as itself."""
    values = {INSTANCE: labels.instance, TENANT: labels.tenant, SERVICE: labels.service}
    return {name: value for name, value in values.items() if label(value) != value}


def instance_of(metadata: Mapping[str, Any]) -> str:
    """The instance that an object belongs to; empty where none."""
    marked = str((metadata.get("labels") or {}).get(INSTANCE) or "")
    told = str((metadata.get("annotations") or {}).get(INSTANCE) or "")
    # The annotation says what the label is a digest of, and nothing else.
    return told if told and label(told) == marked else marked


def selector(region: str, **wanted: str) -> str:
    """Selects objects of ours in a region, by the constants' names in small letters, such as `instance`."""
    parts = [f"{MANAGED}={_WE}", f"{REGION}={label(region)}"]
    for name, value in wanted.items():
        key = COMPONENT if name == "component" else _OURS + name.replace("_", "-")
        parts.append(f"{key}={label(value)}")
    return ",".join(parts)
