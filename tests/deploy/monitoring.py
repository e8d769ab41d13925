"""Custom resource definitions of the Prometheus operator's two kinds, for clusters without the operator.

They follow the operator's published API reference (monitoring.coreos.com/v1), as far as Archelon's monitors use it. The schema is
structural and prunes unknown fields: the server drops a misspelt field, and refuses one in the wrong place or of the wrong type.
The operator itself does not run, so scraping by Prometheus is not tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from .kubectl import Kubectl

_GROUP: Final = "monitoring.coreos.com"
_TEXT: Final = {"type": "string"}
_DURATION: Final = {
    "type": "string",
    "pattern": ("^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"),
}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_CREDENTIALS: Final = _object(("key",), key=_TEXT, name=_TEXT, optional={"type": "boolean"})
_ENDPOINT: Final = _object(
    port=_TEXT,
    path=_TEXT,
    scheme={"type": "string", "enum": ["http", "https", "HTTP", "HTTPS"]},
    interval=_DURATION,
    scrapeTimeout=_DURATION,
    authorization=_object(type=_TEXT, credentials=_CREDENTIALS),
    relabelings=_list(
        _object(
            action=_TEXT,
            sourceLabels=_list(_TEXT),
            separator=_TEXT,
            regex=_TEXT,
            modulus={"type": "integer"},
            replacement=_TEXT,
            targetLabel=_TEXT,
        )
    ),
)
_EXPRESSION: Final = _object(("key", "operator"), key=_TEXT, operator=_TEXT, values=_list(_TEXT))
_SELECTOR: Final = _object(
    matchLabels={"type": "object", "additionalProperties": _TEXT}, matchExpressions=_list(_EXPRESSION)
)
_NAMESPACES: Final = _object(any={"type": "boolean"}, matchNames=_list(_TEXT))
_KINDS: Final = {
    "ServiceMonitor": _object(
        ("endpoints", "selector"),
        jobLabel=_TEXT,
        selector=_SELECTOR,
        namespaceSelector=_NAMESPACES,
        endpoints=_list(_ENDPOINT),
    ),
    "PodMonitor": _object(
        ("selector",),
        jobLabel=_TEXT,
        selector=_SELECTOR,
        namespaceSelector=_NAMESPACES,
        podMetricsEndpoints=_list(_ENDPOINT),
    ),
}


@contextmanager
def monitor_kinds(kubectl: Kubectl) -> Iterator[None]:
    """Define the kinds temporarily, unless the cluster has them; the operator's own are left unchanged."""
    made = [name for name in (_name(kind) for kind in _KINDS) if kubectl.find("customresourcedefinition", name) is None]
    wanted = [each for each in map(_definition, _KINDS) if each["metadata"]["name"] in made]
    try:
        if wanted:
            kubectl.apply(*wanted)
            kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in made), "--timeout=60s")
        yield
    finally:
        if made:
            kubectl("delete", "customresourcedefinition", *made, "--ignore-not-found")


def _name(kind: str) -> str:
    return f"{kind.lower()}s.{_GROUP}"


def _definition(kind: str) -> dict[str, Any]:
    schema = _object(("spec",), apiVersion=_TEXT, kind=_TEXT, metadata={"type": "object"}, spec=_KINDS[kind])
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": f"{kind.lower()}s", "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": _name(kind)},
        "spec": {"group": _GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }
