"""The keys of the resource type `pod`: a node as a pod of a cluster, with a Service that keeps its address.

    resource:
      type: pod
      image: "registry.example.org/web:1"     # default: the region's image
      command: [python3, -u, server.py]       # default: the image's own
      environment: {GREETING: "${parameters.greeting}"}
      files: {server.py: !text_import {url: "file://server.py"}}
      ports: [http]                           # numbered from 8080, or {http: 8000}; `port` is the first
      requests: {cpu: 25m, memory: 64Mi}
      limits: {memory: 256Mi}
      user: 65532
      restart: {policy: on-failure}           # always, on-failure, never
      grace: 10

`contextualisation: {type: pod, …}` may contain `command`, `environment` (or Occopus' `env`) and `files` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..description import Implementation
from ..rendering import DescriptionError
from ..sections import Section, word
from .contents import checked_sections

#: Kubernetes' names of the restart policies.
RESTARTS: Final = {"always": "Always", "on-failure": "OnFailure", "never": "Never"}


def check(implementation: Implementation) -> None:
    """Check an implementation as a pod. Raises DescriptionError with the place.

    Without an image it is valid: the region may have one.
    """
    own = ("image", "ports", "requests", "limits", "user", "restart", "grace")
    resource = checked_sections(implementation, "pod", own)[0]
    if implementation.health.commands:
        place = (implementation.health_check or implementation.resource).place
        raise DescriptionError(place, "health checks do not run commands inside pods", "check a port or a URL")
    _check_rest(resource)


def _check_rest(resource: Section) -> None:
    ports = resource.item("ports")
    if ports is not None and isinstance(ports.value, tuple):
        for entry in ports.value:
            word(entry, "a port's name")
    elif ports is not None:
        for entry in Section(ports, "'ports'").items.values():
            if isinstance(entry.value, bool) or not isinstance(entry.value, int) or not 0 < entry.value < 65536:
                raise DescriptionError(entry.place, "a pod's port is a number from 1 to 65535", "correct it")
    for key in ("requests", "limits"):
        item = resource.item(key)
        if item is not None:
            _check_quantities(Section(item, f"{key!r}", ("cpu", "memory", "ephemeral-storage")))
    resource.whole("user", 65532, least=1)
    restart = resource.item("restart")
    if restart is not None:
        Section(restart, "'restart'", ("policy", "limit", "backoff", "backoff_limit")).choice(
            "policy", "never", RESTARTS
        )
    # The node cannot be removed during its grace period, so a tenant may choose it only within bounds.
    resource.seconds("grace", 10.0, least=1.0, most=120.0)


def _check_quantities(section: Section) -> None:
    for entry in section.items.values():
        if isinstance(entry.value, tuple | Mapping) or entry.value is None:
            raise DescriptionError(entry.place, "this is not an amount", "write for example 250m or 64Mi")
