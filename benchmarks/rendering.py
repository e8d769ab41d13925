"""GET of one entity in each rendering, against a bare Falcon application that answers with the same bytes.

Both are served by the same gunicorn with the same settings: one gthread worker, keep-alive. The entity is a compute
with eight attributes, one link and two actions, in memory. Each round measures both, one right after the other, and
the round with the median ratio counts, since machines are noisy. The aim: at least 60 % of bare Falcon in text/plain and JSON.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import falcon
import falcon.testing
from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity, Kind, Link, Resource

from occi_service import Application, Attribute

from .load_http import requests_per_second

SCHEME: Final = "http://schemas.ogf.org/occi/infrastructure#"
PATH: Final = "/compute/0d3c7e5e-1b7c-4f6e-9d2a-1a2b3c4d5e6f"
RENDERINGS: Final = ("text/plain", "text/occi", "application/occi+json", "text/html")
GOAL: Final = 0.6
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
    """The OCCI service with its one compute."""
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
    """Answers with what the service answered, by Accept, and does nothing else."""

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


@contextlib.contextmanager
def served(name: str) -> Iterator[int]:
    """A gunicorn with one of the two, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", "gunicorn", f"benchmarks.rendering:{name}()", "--no-control-socket"]
        command += ["--bind", f"fd://{listening.fileno()}", "--workers", "1", "--worker-class", "gthread"]
        command += ["--threads", "2", "--keep-alive", "30", "--log-level", "error"]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], pass_fds=[listening.fileno()])
        try:
            yield listening.getsockname()[1]
        finally:
            process.terminate()
            process.wait(timeout=20)


def _request(rendering: str) -> bytes:
    return f"GET {PATH} HTTP/1.1\r\nHost: occi.example.org\r\nAccept: {rendering}\r\n\r\n".encode()


def measure(*, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, tuple[float, float]]:
    """Requests per second of the service and of bare Falcon, by rendering: the pair of the median ratio."""
    found: dict[str, list[tuple[float, float]]] = {each: [] for each in RENDERINGS}
    with served("service") as ours, served("floor") as theirs:
        for port in (ours, theirs):
            # The socket listens before the worker does, so that the first answer waits for it.
            requests_per_second(port, _request("text/plain"), seconds=0.2)
        for index in range(rounds):
            for rendering, pairs in found.items():
                # One right after the other, and in turn first, so that what else the machine does hits both.
                order = (ours, theirs) if index % 2 == 0 else (theirs, ours)
                rates = {port: requests_per_second(port, _request(rendering), seconds=seconds) for port in order}
                pairs.append((rates[ours], rates[theirs]))
    return {each: sorted(pairs, key=_ratio)[len(pairs) // 2] for each, pairs in found.items()}


def _ratio(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1]


def main() -> None:
    """Print the ratios; exits with 1 if the aim is missed."""
    start = time.perf_counter()
    found = measure()
    print(f"GET of one entity, one gthread worker, median ratio of {ROUNDS} rounds:")
    for rendering, (mine, bare) in found.items():
        print(f"  {rendering:24} {mine:7.0f}/s   bare Falcon {bare:7.0f}/s   {mine / bare:5.0%}")
    print(f"  took {time.perf_counter() - start:.0f} s; aim: {GOAL:.0%} in {' and '.join(GOAL_FOR)}")
    if any(found[each][0] < GOAL * found[each][1] for each in GOAL_FOR):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
