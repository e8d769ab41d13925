"""The steps of the demo: each a function of the stage and the play, which raises `ExpectedError` where its check fails."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from .plays import Play
from .remains import left
from .stage import ExpectedError, Node, Stage

_ENTRY: Final = "Archelon was here"
_VISITORS: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        title: what it shows.
        run: does it.
        applies: whether the play has it.
        takes_down: whether it ends what the steps before it made.
    """

    title: str
    run: Callable[[Stage, Play], None]
    applies: Callable[[Play], bool] = lambda _play: True
    takes_down: bool = False


def start(stage: Stage, _play: Play) -> None:
    """Service manager and cloud controller, web and worker of each, with keys and a realm of their own."""
    stage.system.up()
    stage.show(f"    service manager {stage.state.url()}, cloud controller {stage.state.url('cloud_controller')}")


def publish(stage: Stage, play: Play) -> None:
    """The provider offers services; from then on they are kinds that any OCCI client finds."""
    import bundles

    from ..service import await_entry, offer

    connection = stage.connection("provider")
    with connection.open() as manager:
        for directory in play.bundles:
            bundle = bundles.Bundle.load(directory)
            packed = bundle.pack()
            entry = offer(manager, packed)
            await_entry(connection, bundle.manifest.type)
            stage.show(f"    PUT /bundle/{packed.digest[:12]}…  POST /published/  → {entry}")
    kinds = stage.request("GET", "/-/", expected=200, quiet=True).document.get("kinds", [])
    terms = {each.get("term") for each in kinds}
    if play.service not in terms:
        raise ExpectedError(f"/-/ was to show the kind {play.service}; it shows {sorted(map(str, terms))}")
    stage.show(f"    GET /-/  → the kind {play.service} is there")


def order(stage: Stage, play: Play) -> None:
    """A tenant orders an instance and gets it, with all that it is made of."""
    import bundles

    service_type = bundles.Bundle.load(play.bundles[-1]).manifest.type
    answer = stage.request(
        "POST", f"/{play.service}/", {"kind": service_type, "attributes": dict(play.order)}, expected=201
    )
    stage.path = answer.location.removeprefix(stage.state.url())
    stage.follow("active", seconds=120)
    shown = stage.request("GET", stage.path, expected=200, quiet=True).document
    stage.url = str(shown["attributes"].get(play.url) or "")
    if not stage.url.startswith("http"):
        raise ExpectedError(f"{play.url} was to be a URL; it is {stage.url!r}")
    stage.show(f"    GET {stage.path}  → {play.url} = {stage.url}")
    for link in shown.get("links", []):
        target = link.get("target", {}).get("location", "")
        stage.show(
            f"      {link.get('kind', '').rpartition('#')[2]:<11} {link.get('title') or target.rpartition('/')[2]}"
        )


def visit(stage: Stage, play: Play) -> None:
    """What was ordered works: an entry is written and read back through the address that the instance gave."""
    if play.takes_entries:
        status, text = stage.web("POST", stage.url, "entry=" + _ENTRY.replace(" ", "+"))
        if status != 303:
            raise ExpectedError(f"the guestbook was to take an entry; it answered {status}: {text[:200]}")
    _check_page(stage, play.says, *_entries(play))


def scale(stage: Stage, play: Play) -> None:
    """Visitors come, an alarm fires, and the orchestrator adds a node."""
    before = len(_of(stage, str(play.node)))
    stage.show(f"    {_VISITORS} visitors at once, without a pause; nodes of {play.node}: {before}")
    begun = stage.clock()
    with _visitors(stage.url, _VISITORS):
        found = stage.until(
            lambda: len(_of(stage, str(play.node))) > before and _of(stage, str(play.node)),
            f"more than {before} nodes of {play.node} under load",
            seconds=90,
        )
    stage.show(f"    nodes of {play.node}: {len(found)} after {stage.clock() - begun:.1f} s")


def heal(stage: Stage, play: Play) -> None:
    """A node dies; it is missed, and made again."""
    victim = _of(stage, str(play.node))[0] if play.node else _workers(stage)[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    stage.show(f"    kill -9 {victim.pid}  (node {victim.process})")
    begun = stage.clock()

    def healed() -> bool:
        again = [each for each in _workers(stage) if each.process == victim.process]
        return bool(again) and again[0].pid not in (None, victim.pid)

    stage.until(healed, f"node {victim.process} was to run again", seconds=90)
    stage.until(
        lambda: stage.web("GET", stage.url, quiet=True)[0] == 200, f"{stage.url} was to answer again", seconds=60
    )
    stage.show(f"    runs again after {stage.clock() - begun:.1f} s, as process {_again(stage, victim).pid}")
    _check_page(stage, play.says, *_entries(play))


def survive(stage: Stage, play: Play) -> None:
    """The worker that carries out an update is killed in the middle of it. What replaces it goes on where it was."""
    worker = "service-manager-worker"
    before = float(stage.attributes().get("org.archelon.generation", 0))
    stage.request("POST", stage.path, {"attributes": dict(play.change)}, expected=200)
    pid = stage.system.supervisor.kill(worker)
    stage.show(f"    kill -9 {pid}  (the service manager's worker)")
    if stage.attributes().get("mcn.service.state") != "update":
        raise ExpectedError("the update was to be under way when its worker was killed; it was done already")
    took = stage.follow("active", seconds=120, generation=before + 1)
    for name, value in play.change.items():
        if stage.attributes().get(name) != value:
            raise ExpectedError(f"{name} was to be {value!r}; it is {stage.attributes().get(name)!r}")
    ends = stage.system.supervisor.ends(worker)
    if ends != 1:
        raise ExpectedError(f"the worker was to be started again once; it ended {ends} times")
    stage.show(f"    the update is done {took:.1f} s after the kill, by process {stage.system.supervisor.pid(worker)}")
    _check_page(stage, play.says_then, *_entries(play))


def dispose(stage: Stage, _play: Play) -> None:
    """DELETE, and everything that was made for the instance goes, in the reverse order."""
    stage.request("DELETE", stage.path, expected=200)
    begun = stage.clock()

    def gone() -> bool:
        http = stage.connection("tenant")
        with http.open() as manager:
            return not manager.exists(stage.path)

    stage.until(gone, f"{stage.path} was to be gone", seconds=120)
    stage.request("GET", stage.path, expected=404)
    stage.show(f"    gone after {stage.clock() - begun:.1f} s")


def prove(stage: Stage, _play: Play) -> None:
    """Nothing is left: looked for on the machine and in the databases, past all services."""
    found: list[str] = []

    def clean() -> bool:
        found[:] = left(stage.state)
        return not found

    try:
        stage.until(clean, "no process, port or row was to be left", seconds=60)
    except ExpectedError as error:
        raise ExpectedError(f"{error}; left are: {'; '.join(found[:10])}") from None
    status, _ = stage.web("GET", stage.url)
    if status:
        raise ExpectedError(f"{stage.url} was to be silent; it answered {status}")
    stage.show("    no process, no port, no row of it; its history stays:")
    with stage.connection("tenant").open() as manager:
        record = manager.get(f"/record/{stage.instance}")
    for phase in record.attributes.get("org.archelon.record.phases") or []:
        stage.show(f"      {phase['phase']:<11} {phase['duration']:6.2f} s  {phase['outcome']}")


STEPS: Final[Sequence[Step]] = (
    Step("Start everything on this machine", start),
    Step("Publish", publish),
    Step("Order", order),
    Step("Use it", visit),
    Step("Scale under load", scale, lambda play: play.node is not None),
    Step("Heal: a node is killed", heal),
    Step("Survive: the worker is killed in the middle of an update", survive),
    Step("Dispose", dispose, takes_down=True),
    Step("Nothing is left", prove, takes_down=True),
)


def _entries(play: Play) -> tuple[str, ...]:
    return (_ENTRY,) if play.takes_entries else ()


def _check_page(stage: Stage, *wanted: str) -> None:
    status, text = stage.web("GET", stage.url)
    missing = [each for each in wanted if each not in text]
    if status != 200 or missing:
        raise ExpectedError(f"{stage.url} was to say {', '.join(wanted)}; it answered {status}: {text[:200]!r}")


def _workers(stage: Stage) -> list[Node]:
    return [each for each in stage.nodes(stage.instance) if not each.is_orchestrator]


def _of(stage: Stage, node: str) -> list[Node]:
    """Instances of a node that run."""
    return [each for each in _workers(stage) if each.pid is not None and f".{node}" in each.process]


def _again(stage: Stage, victim: Node) -> Node:
    return next(each for each in _workers(stage) if each.process == victim.process)


@contextlib.contextmanager
def _visitors(url: str, count: int) -> Iterator[None]:
    """Visitors that ask for the page again and again, for a while."""
    import urllib3

    leave = threading.Event()

    def visitor() -> None:
        with urllib3.PoolManager(retries=False, timeout=5.0) as http:
            while not leave.is_set():
                # One that is turned away comes again: a crowd does not go home because a node is busy.
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
