"""The fake cloud of `sdk.testing`, and what our own tests need beside: applications whose orchestrators run, faults, a journal.

One lock is enough: nothing that holds it waits, for the network or for a fault, and two locks would be taken in two orders, by
requests and by timers.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

from occi.backend import MixinBackend
from occi.core_model import Entity

from archelon_api import deploy, disposal
from occi_service import client
from sdk.testing.fake_cloud import FakeCloud
from sdk.testing.fake_registry import instance_of

from .containers import Container
from .faults import Fault, Faults
from .journal import Journal
from .modules import Applications, Archives, Bundles, Digest, TimedDisposals
from .settings import Settings


class FakeState(FakeCloud):
    """See the module.

    Attributes:
        settings: as they are now; a test may change them.
        containers: by instance.
        heard: by instance, the counter in the private state that the service manager last took.
        clients: those of orchestrators, by the beginning of the URL.
        struck: faults that struck the request that is served now.
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
        self.clients: dict[str, client.Client] = {}
        self.struck: tuple[Fault, ...] = ()
        self.containers: dict[str, Container] = {}
        self.acknowledged: dict[str, int] = {}
        module = self.module("deploy")
        module.register_backend(deploy.ORCHESTRATOR, MixinBackend())
        module.falcon.router_options.converters["digest"] = Digest
        module.falcon.add_route("/bundle/{digest:digest}", Bundles(self))

    def effect(self, name: str, entity: Entity, **fields: Any) -> None:
        self.journal.effect(name, instance_of(entity), path=entity.identifier, **fields)

    def fault(self, *kinds: str) -> Fault | None:
        """The first of one of the kinds that struck the request that is served now."""
        return next((each for each in self.struck if each.kind in kinds), None)

    def after(self, seconds: float, call: Callable[[], None]) -> threading.Timer:
        """Call in so many seconds, unless it is cancelled."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
        return timer

    def slip(self, error: BaseException) -> None:
        """A fault of the fake's own: in the books, so that the test that met it fails."""
        self.journal.violation("the fake cloud itself failed: " + "".join(traceback.format_exception(error)))
