"""The keys of the resource type `process`: a node as a process of a machine.

    resource:
      type: process
      command: [python3, -m, http.server, "${self.port}"]
      environment: {GREETING: "${parameters.greeting}"}
      files: {site/index.html: "${variables.text}"}
      ports: [http]                  # or {http: 8080}; `port` is the first
      directory: site
      limits: {memory: 268435456, files: 256, cpu: 3600, processes: 64}
      restart: {policy: on-failure, limit: 5, backoff: 0.5}
      grace: 10

`contextualisation: {type: process, …}` may contain `command`, `environment` (or Occopus' `env`) and `files` instead.
"""

from __future__ import annotations

from ..description import Implementation
from ..rendering import DescriptionError, RenderedItem
from ..sections import Section, word
from .contents import checked_sections


def check(implementation: Implementation) -> None:
    """Check an implementation as a process. Raises DescriptionError with the place."""
    sections = checked_sections(implementation, "process", ("ports", "directory", "limits", "restart", "grace"))
    resource = sections[0]
    if len([section for section in sections if section.item("command") is not None]) != 1:
        raise DescriptionError(
            resource.place, "a process needs exactly one command", "write `command: [program, argument, …]`"
        )
    _check_ports(resource.item("ports"))
    _check_rest(resource)


def system_port_refusal(number: int) -> str:
    """Return why a system port (below 1024; RFC 6335, section 6) is refused; empty for others."""
    if 0 < number < 1024:
        return f"port {number} is a system port; choose one from 1024 on, or 0 for any"
    return ""


def _check_ports(item: RenderedItem | None) -> None:
    if item is None:
        return
    if isinstance(item.value, tuple):
        for entry in item.value:
            word(entry, "a port's name")
        return
    for entry in Section(item, "'ports'").items.values():
        if isinstance(entry.value, bool) or not isinstance(entry.value, int) or not 0 <= entry.value < 65536:
            raise DescriptionError(
                entry.place, "a port must be a number from 1024 to 65535, or 0 for any", "correct it"
            )
        if refused := system_port_refusal(entry.value):
            problem, _, remedy = refused.partition("; ")
            raise DescriptionError(entry.place, problem, remedy)


def _check_rest(resource: Section) -> None:
    for key, words in (
        ("limits", ("memory", "files", "cpu", "processes")),
        ("restart", ("policy", "limit", "backoff", "backoff_limit")),
    ):
        item = resource.item(key)
        if item is None:
            continue
        section = Section(item, f"{key!r}", words)
        for entry in words:
            if entry == "policy":
                section.choice("policy", "never", ("always", "on-failure", "never"))
            elif entry.startswith("backoff"):
                section.seconds(entry, 1.0)
            else:
                section.whole(entry, 1, least=1)
    # Bounded, since it delays the removal of the node.
    resource.seconds("grace", 10.0, least=0.1, most=120.0)
    if resource.item("directory") is not None:
        resource.text("directory")
