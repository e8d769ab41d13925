"""The fake cloud of `sdk.testing`, extended by running orchestrators, faults and a journal.

There is one lock. Its holders never wait for the network or a fault; two locks could be taken in different orders by requests
and timers.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

from occi.backend import MixinBackend
from occi.core_model import Entity

from archelon_api import deploy, disposal
from sdk.runtime.clients import Clients
from sdk.testing.fake_cloud import FakeCloud
from sdk.testing.fake_registry import instance_of

from .containers import Container
from .faults import Fault, Faults
from .journal import Journal
from .modules import Applications, Archives, Bundles, Digest, TimedDisposals
from .settings import Settings


class FakeState(FakeCloud):
    """The state of the fake cloud.

    Attributes:
        settings: may be changed by a test.
        containers: by instance.
        acknowledged: by instance, the counter in the private state that the service manager last acknowledged.
        clients: of orchestrators.
        active_faults: faults of the present request.
    """

    kinds = FakeCloud.kinds | {
        "deploy": (*FakeCloud.kinds["deploy"], (deploy.APPLICATION, Applications), (deploy.BUNDLE, Archives)),
        "disposal": ((disposal.DISPOSAL, TimedDisposals),),
    }

    def __init__(self, settings: Settings, base_url: str) -> None:
        super().__init__(base_url, settings.region)
        self.settings = settings
        self.journal = Journal()
        self.faults = Faults()
        self.clients = Clients()
        self.active_faults: tuple[Fault, ...] = ()
        self.containers: dict[str, Container] = {}
        self.acknowledged: dict[str, int] = {}
        module = self.module("deploy")
        module.register_backend(deploy.ORCHESTRATOR, MixinBackend())
        module.falcon.router_options.converters["digest"] = Digest
        module.falcon.add_route("/bundle/{digest:digest}", Bundles(self))

    def effect(self, name: str, entity: Entity, **fields: Any) -> None:
        self.journal.effect(name, instance_of(entity), path=entity.identifier, **fields)

    def fault(self, *kinds: str) -> Fault | None:
        """Return the present request's first fault of one of these kinds."""
        return next((each for each in self.active_faults if each.kind in kinds), None)

    def after(self, seconds: float, call: Callable[[], None]) -> threading.Timer:
        """Call after so many seconds, unless the timer is cancelled."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
        return timer

    def record_error(self, error: BaseException) -> None:
        """Record an internal error as a violation, so that the test fails."""
        self.journal.violation("the fake cloud itself failed: " + "".join(traceback.format_exception(error)))
