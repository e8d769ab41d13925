"""The names that an author of orchestrators imports.

A bundle with a manifest and templates is a service; Python is for what templates cannot express:

    import sdk


    class Guestbook(sdk.Orchestrator):
        def on_alarm(self, alarm: sdk.Alarm) -> None:
            if alarm.name == "busy":
                self.deployment.scale("web", by=1)

`sdk.testing` runs an orchestrator in memory, `sdk.testing.conformance` tests one over HTTP, `python -m sdk.serve` runs one.

Names are imported on first use, so that `python -m sdk.serve` listens before it has imported all of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .catalogue import Design, FoundService
    from .deployment import Deployment, Resource, Stack
    from .disposal import Disposal
    from .dns import Dns, Record
    from .errors import Cancelled, Failure, StackFailure, SupplierFailure
    from .events import Action, Alarm, Event, Tick
    from .instance import Instance
    from .monitoring import Runtime
    from .orchestrator import Details, Orchestrator
    from .provisioning import Provisioning
    from .resolver import Resolver, Supplier

__all__ = [
    "Action",
    "Alarm",
    "Cancelled",
    "Deployment",
    "Design",
    "Details",
    "Disposal",
    "Dns",
    "Event",
    "Failure",
    "FoundService",
    "Instance",
    "Orchestrator",
    "Provisioning",
    "Record",
    "Resolver",
    "Resource",
    "Runtime",
    "Stack",
    "StackFailure",
    "Supplier",
    "SupplierFailure",
    "Tick",
]

_MODULES: Final = {
    "catalogue": ("Design", "FoundService"),
    "disposal": ("Disposal",),
    "deployment": ("Deployment", "Resource", "Stack"),
    "dns": ("Dns", "Record"),
    "errors": ("Cancelled", "Failure", "StackFailure", "SupplierFailure"),
    "events": ("Action", "Alarm", "Event", "Tick"),
    "instance": ("Instance",),
    "orchestrator": ("Details", "Orchestrator"),
    "provisioning": ("Provisioning",),
    "resolver": ("Resolver", "Supplier"),
    "monitoring": ("Runtime",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            found = getattr(importlib.import_module(f".{module}", __name__), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
