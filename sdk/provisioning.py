"""`self.provisioning`: configures nodes of deployed stacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import bundles
from archelon_api import provision
from archelon_core.backoff import Backoff
from occi_service import client

from .catalogue import Design
from .deployment import Stack
from .errors import Failure
from .instance import Instance
from .ports import Waiter

#: Seconds between two polls of a running configuration.
_PAUSES: Final = Backoff(0.25, longest=10.0, factor=1.6)


@dataclasses.dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration: `state` is waiting, running, done or failed; `result` its output, or why it failed."""

    path: str
    state: str
    result: str


class Provisioning:
    """Configurations of one instance's nodes."""

    def __init__(
        self, design: Design, instance: Callable[[], Instance], *, bundle: bundles.Bundle, waiter: Waiter
    ) -> None:
        self._bundle = bundle
        self._design = design
        self._instance = instance
        self._waiter = waiter

    def file(self, path: str) -> str:
        """Return the text of a file of the bundle, such as a script. Raises Failure if there is none."""
        try:
            return self._bundle.read(path).decode()
        except KeyError:
            raise Failure(f"the bundle has no file {path[:120]!r}") from None
        except UnicodeDecodeError:
            raise Failure(f"the bundle's file {path[:120]!r} is not UTF-8 text") from None

    def configure(
        self, stack: Stack, node: str, kind: str, content: Mapping[str, Any], *, name: str = "default"
    ) -> str:
        """Configure a node, wait for it, and return its output.

        Args:
            kind: `process`, `ssh` or `software-config`, as the region's platform supports.
            content: of the configuration, in the kind's format; it is stored as a secret.
            name: of the configuration; a changed or failed configuration of the same name is carried out again.

        Returns:
            The output; of `software-config`, a JSON object of each server's outputs, by its path in the stack.

        Raises:
            Failure: it failed; the text has its output.
        """
        path = provision.configuration_path(stack.path, node, name)
        attributes = {
            **self._instance().labels,
            provision.CONFIGURATION_STACK: stack.path,
            provision.CONFIGURATION_NODE: node,
            provision.CONFIGURATION_NAME: name,
            provision.CONFIGURATION_KIND: kind,
            provision.CONFIGURATION_CONTENT: dict(content),
        }
        self._waiter.check()
        service = self._design.cloud(provision.SCHEME)
        shown, _ = service.put(path, provision.CONFIGURATION.scheme + provision.CONFIGURATION.term, attributes)
        found = _configuration(shown)
        pauses = iter(_PAUSES)
        while found.state not in ("done", "failed"):
            self._waiter.wait(next(pauses))
            found = _configuration(service.get(path))
        if found.state == "failed":
            raise Failure(f"configuring {node} failed: {found.result or 'no reason given'}")
        return found.result


def _configuration(shown: client.Entity) -> Configuration:
    get = shown.attributes.get
    return Configuration(
        shown.location,
        str(get(provision.CONFIGURATION_STATE) or ""),
        str(get(provision.CONFIGURATION_RESULT) or ""),
    )
