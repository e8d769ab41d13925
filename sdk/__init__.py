"""What an author of orchestrators imports.

A bundle with a manifest and templates is a service; Python is for what templates cannot say:

    import sdk


    class Guestbook(sdk.Orchestrator):
        def on_alarm(self, alarm: sdk.Alarm) -> None:
            if alarm.name == "busy":
                self.deployment.scale("web", by=1)

`sdk.testing` runs an orchestrator in memory, `sdk.conformance` tests one over the wire, `python -m sdk.serve` runs one.
"""

from __future__ import annotations

from .catalogue import Design, Found
from .clearing import Disposal
from .deployment import Deployment, Resource, Stack
from .dns import Dns, Record
from .errors import Abandoned, Failure, StackFailure, SupplierFailure
from .events import Action, Alarm, Event, Tick
from .instance import Instance
from .orchestrator import Details, Orchestrator
from .provisioning import Provisioning
from .resolver import Resolver, Supplier
from .watching import Runtime

__all__ = [
    "Abandoned",
    "Action",
    "Alarm",
    "Deployment",
    "Design",
    "Details",
    "Disposal",
    "Dns",
    "Event",
    "Failure",
    "Found",
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
