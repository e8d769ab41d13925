"""The steps of the demo. Each is a function of the stage and the scenario, and raises `ExpectedError` if its check fails."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from .remains import left
from .scenarios import Scenario
from .stage import ExpectedError, RunningNode, Stage

_ENTRY: Final = "Archelon was here"
_VISITORS: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One step, with a predicate for scenarios; `takes_down` if it removes what earlier steps created."""

    title: str
    run: Callable[[Stage, Scenario], None]
    applies: Callable[[Scenario], bool] = lambda _play: True
    takes_down: bool = False


def start(stage: Stage, _play: Scenario) -> None:
    """Start web and worker processes of the service manager and the cloud controller, with new keys and a new realm."""
    stage.system.up()
    stage.show(f"    service manager {stage.state.url()}, cloud controller {stage.state.url('cloud_controller')}")


def publish(stage: Stage, scenario: Scenario) -> None:
    """The provider publishes services; any OCCI client then discovers them as kinds."""
    import bundles

    from ..service import await_entry, offer

    connection = stage.connection("provider")
    with connection.open() as manager:
        for directory in scenario.bundles:
            bundle = bundles.Bundle.load(directory)
            packed = bundle.pack()
            entry = offer(manager, packed)
            await_entry(connection, bundle.manifest.type)
            stage.show(f"    PUT /bundle/{packed.digest[:12]}…  POST /published/  → {entry}")
    kinds = stage.request("GET", "/-/", expected=200, quiet=True).document.get("kinds", [])
    terms = {each.get("term") for each in kinds}
    if scenario.service not in terms:
        raise ExpectedError(f"/-/ was to show the kind {scenario.service}; it shows {sorted(map(str, terms))}")
    stage.show(f"    GET /-/  → the kind {scenario.service} is there")


def order(stage: Stage, scenario: Scenario) -> None:
    """A tenant orders an instance, and waits until it and its components are active."""
    import bundles

    service_type = bundles.Bundle.load(scenario.bundles[-1]).manifest.type
    answer = stage.request(
        "POST", f"/{scenario.service}/", {"kind": service_type, "attributes": dict(scenario.order)}, expected=201
    )
    stage.path = answer.location.removeprefix(stage.state.url())
    stage.follow("active", seconds=120)
    shown = stage.request("GET", stage.path, expected=200, quiet=True).document
    stage.url = str(shown["attributes"].get(scenario.url) or "")
    if not stage.url.startswith("http"):
        raise ExpectedError(f"{scenario.url} was to be a URL; it is {stage.url!r}")
    stage.show(f"    GET {stage.path}  → {scenario.url} = {stage.url}")
    for link in shown.get("links", []):
        target = link.get("target", {}).get("location", "")
        stage.show(
            f"      {link.get('kind', '').rpartition('#')[2]:<11} {link.get('title') or target.rpartition('/')[2]}"
        )


def visit(stage: Stage, scenario: Scenario) -> None:
    """The service works: an entry is written and read back at the instance's endpoint."""
    if scenario.takes_entries:
        status, text = stage.web("POST", stage.url, "entry=" + _ENTRY.replace(" ", "+"))
        if status != 303:
            raise ExpectedError(f"the guestbook was to take an entry; it answered {status}: {text[:200]}")
    _check_page(stage, scenario.text, *_entries(scenario))


def scale(stage: Stage, scenario: Scenario) -> None:
    """Visitors cause load, an alarm fires, and the orchestrator adds a node."""
    before = len(_running(stage, str(scenario.node)))
    stage.show(f"    {_VISITORS} visitors at once, without a pause; nodes of {scenario.node}: {before}")
    begun = time.monotonic()
    with _visitors(stage.url, _VISITORS):
        found = stage.until(
            lambda: len(_running(stage, str(scenario.node))) > before and _running(stage, str(scenario.node)),
            f"more than {before} nodes of {scenario.node} under load",
            seconds=90,
        )
    stage.show(f"    nodes of {scenario.node}: {len(found)} after {time.monotonic() - begun:.1f} s")


def heal(stage: Stage, scenario: Scenario) -> None:
    """A killed node is detected and recreated."""
    victim = _running(stage, str(scenario.node))[0] if scenario.node else _nodes(stage)[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    stage.show(f"    kill -9 {victim.pid}  (node {victim.process})")
    begun = time.monotonic()

    def healed() -> bool:
        again = [each for each in _nodes(stage) if each.process == victim.process]
        return bool(again) and again[0].pid not in (None, victim.pid)

    stage.until(healed, f"node {victim.process} was to run again", seconds=90)
    stage.until(lambda: stage.web("GET", stage.url, quiet=True)[0] == 200, f"{stage.url} answers again", seconds=60)
    pid = next(each.pid for each in _nodes(stage) if each.process == victim.process)
    stage.show(f"    runs again after {time.monotonic() - begun:.1f} s, as process {pid}")
    _check_page(stage, scenario.text, *_entries(scenario))


def survive(stage: Stage, scenario: Scenario) -> None:
    """The worker that carries out an update is killed midway. Its replacement continues the update."""
    worker = "service-manager-worker"
    before = float(stage.attributes().get("org.archelon.generation", 0))
    stage.request("POST", stage.path, {"attributes": dict(scenario.change)}, expected=200)
    pid = stage.system.supervisor.kill(worker)
    stage.show(f"    kill -9 {pid}  (the service manager's worker)")
    if stage.attributes().get("mcn.service.state") != "update":
        raise ExpectedError("the update was to be in progress when its worker was killed; it had already finished")
    took = stage.follow("active", seconds=120, generation=before + 1)
    for name, value in scenario.change.items():
        if stage.attributes().get(name) != value:
            raise ExpectedError(f"{name} was to be {value!r}; it is {stage.attributes().get(name)!r}")
    ends = stage.system.supervisor.ends(worker)
    if ends != 1:
        raise ExpectedError(f"the worker was to be restarted once; it exited {ends} times")
    stage.show(f"    the update finished {took:.1f} s after the kill, in process {stage.system.supervisor.pid(worker)}")
    _check_page(stage, scenario.updated_text, *_entries(scenario))


def dispose(stage: Stage, _play: Scenario) -> None:
    """DELETE removes everything that was created for the instance, in reverse order."""
    stage.request("DELETE", stage.path, expected=200)
    begun = time.monotonic()

    def gone() -> bool:
        with stage.connection("tenant").open() as manager:
            return not manager.exists(stage.path)

    stage.until(gone, f"{stage.path} was to be gone", seconds=120)
    stage.request("GET", stage.path, expected=404)
    stage.show(f"    gone after {time.monotonic() - begun:.1f} s")


def prove(stage: Stage, _play: Scenario) -> None:
    """Nothing is left on the machine or in the databases, checked without the services."""
    found: list[str] = []

    def clean() -> bool:
        found[:] = left(stage.state)
        return not found

    try:
        stage.until(clean, "no process, port or row was to be left", seconds=60)
    except ExpectedError as error:
        raise ExpectedError(f"{error}; left: {'; '.join(found[:10])}") from None
    status, _ = stage.web("GET", stage.url)
    if status:
        raise ExpectedError(f"{stage.url} was not to respond; it answered {status}")
    stage.show("    no process, no port, no row is left; the history remains:")
    with stage.connection("tenant").open() as manager:
        record = manager.get(f"/record/{stage.instance}")
    for phase in record.attributes.get("org.archelon.record.phases") or []:
        stage.show(f"      {phase['phase']:<11} {phase['duration']:6.2f} s  {phase['outcome']}")


STEPS: Final[Sequence[Step]] = (
    Step("Start everything on this machine", start),
    Step("Publish", publish),
    Step("Order", order),
    Step("Use it", visit),
    Step("Scale under load", scale, lambda scenario: scenario.node is not None),
    Step("Heal: a node is killed", heal),
    Step("Survive: the worker is killed in the middle of an update", survive),
    Step("Dispose", dispose, takes_down=True),
    Step("Nothing is left", prove, takes_down=True),
)


def _entries(scenario: Scenario) -> tuple[str, ...]:
    return (_ENTRY,) if scenario.takes_entries else ()


def _check_page(stage: Stage, *wanted: str) -> None:
    status, text = stage.web("GET", stage.url)
    missing = [each for each in wanted if each not in text]
    if status != 200 or missing:
        raise ExpectedError(f"{stage.url} was to contain {', '.join(wanted)}; it answered {status}: {text[:200]!r}")


def _nodes(stage: Stage) -> list[RunningNode]:
    return [each for each in stage.nodes(stage.instance) if not each.is_orchestrator]


def _running(stage: Stage, node: str) -> list[RunningNode]:
    """Running instances of a node."""
    return [each for each in _nodes(stage) if each.pid is not None and f".{node}" in each.process]


@contextlib.contextmanager
def _visitors(url: str, count: int) -> Iterator[None]:
    """Visitors that request the page repeatedly."""
    import urllib3

    leave = threading.Event()

    def visitor() -> None:
        with urllib3.PoolManager(retries=False, timeout=5.0) as http:
            while not leave.is_set():
                # A refused visitor tries again, because the load has to persist.
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    http.request("GET", url)

    threads = [threading.Thread(target=visitor, daemon=True) for _ in range(count)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        leave.set()
        for each in threads:
            each.join(timeout=10.0)
