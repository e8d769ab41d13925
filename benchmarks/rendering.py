"""GET of one entity in each rendering, relative to a bare Falcon application that returns the same bytes.

The same gunicorn serves both with the same settings: one gthread worker, keep-alive. The entity is a compute with eight
attributes, one link and two actions, in memory. Each round measures both, one right after the other, and the round with the
median ratio counts, since machines are noisy.
"""

from __future__ import annotations

import os
from typing import Any, Final

import falcon
import falcon.testing
from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity, Kind, Link, Resource

from occi_service import Application, Attribute

from . import load
from .goals import Goals
from .serving import served

SCHEME: Final = "http://schemas.ogf.org/occi/infrastructure#"
PATH: Final = "/compute/0d3c7e5e-1b7c-4f6e-9d2a-1a2b3c4d5e6f"
RENDERINGS: Final = ("text/plain", "text/occi", "application/occi+json", "text/html")
GOAL_FOR: Final = ("text/plain", "application/occi+json")
ROUNDS: Final = int(os.environ.get("ARCHELON_BENCH_ROUNDS", "15"))
SECONDS: Final = 0.3

_ACTIONS: Final = [Action(SCHEME, "stop", "Stop"), Action(SCHEME, "restart", "Restart")]
_COMPUTE: Final = Kind(
    SCHEME,
    "compute",
    [Resource.kind],
    _ACTIONS,
    "Compute",
    {
        "occi.compute.architecture": Attribute("mutable"),
        "occi.compute.cores": Attribute("mutable", type="number"),
        "occi.compute.hostname": Attribute("mutable"),
        "occi.compute.share": Attribute("mutable", type="number"),
        "occi.compute.memory": Attribute("mutable", type="number"),
        "occi.compute.state": Attribute("immutable"),
        "occi.compute.state.message": Attribute("immutable"),
        "occi.compute.userdata": Attribute("mutable"),
    },
    "/compute/",
)
_STORAGE: Final = Kind(SCHEME, "storage", [Resource.kind], location="/storage/")
_LINK: Final = Kind(
    SCHEME, "storagelink", [Link.kind], [], "Link", {"occi.storagelink.deviceid": Attribute("mutable")}, "/storagelink/"
)


class _Compute(KindBackend, ActionBackend):
    def create(self, entity: Entity, extras: Any) -> None:
        entity.attributes["occi.compute.state"] = "active"
        entity.attributes["occi.compute.state.message"] = "running, all is well"
        entity.actions = list(_ACTIONS)


def service() -> Application:
    """Return the OCCI service with its single compute."""
    application = Application()
    for category in (_COMPUTE, *_ACTIONS):
        application.register_backend(category, _Compute())
    application.register_backend(_STORAGE, KindBackend())
    application.register_backend(_LINK, KindBackend())
    client = falcon.testing.TestClient(application)
    client.simulate_put("/storage/one", body=f'Category: storage; scheme="{SCHEME}"; class="kind"')
    body = (
        f'Category: compute; scheme="{SCHEME}"; class="kind"\n'
        'X-OCCI-Attribute: occi.compute.architecture="x64", occi.compute.cores=4, occi.compute.hostname="web-1"\n'
        'X-OCCI-Attribute: occi.compute.share=1.5, occi.compute.memory=8, occi.compute.userdata="IyEvYmluL3No"\n'
        f'Link: </storage/one>; category="{SCHEME}storagelink"; occi.storagelink.deviceid="/dev/vda"\n'
    )
    created = client.simulate_put(PATH, body=body)
    if created.status_code != 201:
        raise RuntimeError(created.text)
    return application


class _Same:
    """Returns the service's recorded response by Accept, and does nothing else."""

    def __init__(self) -> None:
        client = falcon.testing.TestClient(service())
        self._answers = {each: client.simulate_get(PATH, headers={"Accept": each}) for each in RENDERINGS}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        answer = self._answers[req.accept]
        resp.content_type = answer.headers["content-type"]
        resp.set_headers([pair for pair in answer.headers.items() if pair[0] not in ("content-type", "content-length")])
        resp.data = answer.content


def floor() -> falcon.App[falcon.Request, falcon.Response]:
    """Bare Falcon."""
    application: falcon.App[falcon.Request, falcon.Response] = falcon.App()
    application.add_route(PATH, _Same())
    return application


def main() -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    with served("benchmarks.rendering:service") as ours, served("benchmarks.rendering:floor") as theirs:
        runs = [(ours.port, theirs.port, load.get_request(PATH, accept=each)) for each in RENDERINGS]
        found = dict(zip(RENDERINGS, load.median_pairs(runs, rounds=ROUNDS, seconds=SECONDS), strict=True))
    print(f"  GET of one entity in memory, one gthread worker, median ratio of {ROUNDS} rounds")
    for rendering, (mine, bare) in found.items():
        print(f"  {rendering:24} {mine:7.0f}/s   bare Falcon {bare:7.0f}/s   {mine / bare:5.0%}")
    for rendering in GOAL_FOR:
        mine, bare = found[rendering]
        goals.check("rendering", mine / bare, rendering)
    return goals


if __name__ == "__main__":
    main()
