"""Archelon on a real cluster: a guestbook's lifecycle, and crashes of pods and the database."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import urllib3

from cloud_controller.app.web import MODULES
from occi_service import client
from tests.conftest import missing
from tests.kubernetes_cluster import KubernetesCluster, loaded_image
from tests.postgres import PostgresServer
from tests.tables import Tables
from tests.waiting import until

from .installation import Installation, installed, state_of
from .kubectl import NEEDED, Kubectl, program

ROOT = Path(__file__).parents[2]
GUESTBOOK = "http://schemas.archelon.org/occi/service#guestbook"
NOTE = "http://schemas.archelon.org/occi/service#note"
ENTRY = "Written before the kills"
#: Seconds in which an order has to settle: pods start, and two leases may have to expire.
TIMEOUT = 240.0
ORDERS = 4
_STATE = "mcn.service.state"
_ORCHESTRATORS = "app.kubernetes.io/component=orchestrator"


@pytest.fixture(scope="module")
def database(kubernetes_cluster: KubernetesCluster) -> Iterator[Any]:
    """A PostgreSQL server that pods reach, with a database for each service, and its URL."""
    programs = PostgresServer.programs()
    if programs is None:
        missing("PostgreSQL (initdb)", package="postgresql")
    if not kubernetes_cluster.host:
        missing("this machine's address as pods reach it", command="ARCHELON_TEST_KUBERNETES_HOST=… make test-all")
    assert programs is not None
    # Not below pytest's directories: the server runs as another user, and another pytest run resets their mode.
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archelon-postgres-")))
        server = PostgresServer(programs, directory, host=kubernetes_cluster.host)
        url = stack.enter_context(server)
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in ("service_manager", "cloud_controller"):
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        yield server, url


@pytest.fixture(scope="module")
def system(
    kubernetes_cluster: KubernetesCluster,
    orchestrator_image: str,
    database: tuple[PostgresServer, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    if program() is None:
        missing(NEEDED)
    directory = tmp_path_factory.mktemp("installation")
    with (
        loaded_image(kubernetes_cluster, "services", directory),
        installed(kubernetes_cluster.kubeconfig, database[1], directory) as made,
    ):
        yield made


def test_a_guestbooks_lifecycle(system: Installation) -> None:
    """Order, use, scale, kill pods, update, dispose; nothing is left in the cluster."""
    for name in ("store", "guestbook"):
        system.publish(ROOT / "orchestrators" / name)
    before = system.inventory()
    with system.manager() as manager:
        path = manager.create(GUESTBOOK, {"guestbook.title": "Pods", "guestbook.busy": 5})
        shown = _await_active(manager, path)
        url = str(shown["guestbook.url"])
        # The pod is ready shortly before kube-proxy routes requests to it.
        until(
            lambda: _request("POST", url, f"entry={ENTRY.replace(' ', '+')}")[0] == 303, "the first entry is accepted"
        )
        assert _page_contains(url, "Pods", ENTRY)

        web = next(each for each in system.tenants.get("deployments") if each["metadata"]["name"].startswith("web-"))
        name, chosen = web["metadata"]["name"], "app=guestbook"
        with _visitors(url):
            until(lambda: system.tenants.get("deployment", name)["spec"]["replicas"] == 2, "a second web process")
        system.tenants("rollout", "status", f"deployment/{name}", "--timeout=90s")

        # Orchestrators, workers of both services and the web tier, each while the previous ones recover.
        system.kill(system.tenants, _ORCHESTRATORS)
        system.kill(system.services, "app.kubernetes.io/component=worker")
        system.kill(system.tenants, chosen)
        until(lambda: _page_contains(url, "Pods", ENTRY), "the web tier is back, with its entries", seconds=TIMEOUT)

        # An update needs the orchestrator, which is activated again, and both workers.
        manager.update(path, {"guestbook.title": "Changed"})
        _await_active(manager, path)
        until(lambda: _page_contains(url, "Changed", ENTRY), "the new title, with the old entries", seconds=TIMEOUT)

        manager.delete(path)
        until(lambda: not manager.exists(path), "the guestbook is gone", seconds=TIMEOUT)
    system.settled()
    assert system.left_since(before) == []


def test_ingress_and_monitors_are_stored_as_written_and_their_targets_respond(system: Installation) -> None:
    """The API server keeps every field of Ingress and monitors, and the metrics endpoints that they name respond."""
    services = system.services
    written = [each for each in system.applied if each["kind"] in ("Ingress", "ServiceMonitor", "PodMonitor")]
    for each in written:
        assert _kept(services, each), each["metadata"]["name"]
    ingress, over_pods, *over_services = sorted(written, key=lambda each: str(each["kind"]))
    assert [each["kind"] for each in (ingress, over_pods, *over_services)] == [
        *("Ingress", "PodMonitor", "ServiceMonitor", "ServiceMonitor")
    ]
    # The check detects an unknown field; an invalid duration is refused.
    spec = over_services[0]["spec"]
    misspelt = {**spec, "endpoints": [{**spec["endpoints"][0], "intervall": "15s"}]}
    wrong = {**spec, "endpoints": [{**spec["endpoints"][0], "interval": "15 seconds"}]}
    other = {**over_services[0], "metadata": {"name": "misspelt", "namespace": services.namespace}}
    services("apply", "--validate=false", "-f", "-", stdin=json.dumps({**other, "spec": misspelt}))
    assert not _kept(services, {**other, "spec": misspelt})
    with pytest.raises(AssertionError, match=r"spec\.endpoints\S*interval.* in body should match"):
        services("apply", "--validate=false", "-f", "-", stdin=json.dumps({**other, "spec": wrong}))
    services("delete", "servicemonitor", "misspelt")

    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    assert _status(_address(services.get("service", backend["name"]), backend["port"]["name"]) + "/healthz") == 200

    seen = set()
    for monitor in over_services:
        (found,) = services.get("services", "-l", _labels(monitor["spec"]))
        for endpoint in monitor["spec"]["endpoints"]:
            credentials = endpoint["authorization"]["credentials"]
            token = base64.b64decode(services.get("secret", credentials["name"])["data"][credentials["key"]]).decode()
            url = _address(found, endpoint["port"]) + endpoint["path"]
            assert _status(url, token) == 200, url
            assert _status(url) in (401, 403), url
        seen.add((found["metadata"]["name"], len(monitor["spec"]["endpoints"])))
    assert seen == {("service-manager", 1), ("cloud-controller", len(MODULES))}

    (endpoint,) = over_pods["spec"]["podMetricsEndpoints"]
    pods = services.get("pods", "-l", _labels(over_pods["spec"]))
    workers = [each for each in pods if not each["metadata"].get("deletionTimestamp")]
    assert len(workers) == 4
    for pod in workers:
        (port,) = [each for each in pod["spec"]["containers"][0]["ports"] if each["name"] == endpoint["port"]]
        url = f"http://{pod['status']['podIP']}:{port['containerPort']}{endpoint['path']}"
        assert _status(url) == 200


def _kept(kubectl: Kubectl, written: Mapping[str, Any]) -> bool:
    """Whether the server has stored every field of a spec as written."""
    kept = kubectl.get(written["kind"], written["metadata"]["name"])["spec"]
    return bool({**kept, **written["spec"]} == kept)


def _labels(spec: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in spec["selector"]["matchLabels"].items())


def _address(service: Mapping[str, Any], port: str) -> str:
    (number,) = [each["port"] for each in service["spec"]["ports"] if each["name"] == port]
    return f"http://{service['spec']['clusterIP']}:{number}"


def _status(url: str, token: str = "") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return int(urllib3.request("GET", url, headers=headers, timeout=10.0, retries=False).status)


@dataclasses.dataclass(frozen=True)
class Row:
    """One kill, and how long afterwards all orders were active."""

    victim: str
    seconds: float
    active: int
    objects: int


@pytest.mark.crash
def test_nothing_is_lost_or_doubled(
    system: Installation, database: tuple[PostgresServer, str], tmp_path: Path, tables: Tables
) -> None:
    """Under a load of orders, a replica of each component is killed in turn, then the database is restarted."""
    system.publish(_note(tmp_path / "note"))
    before = system.inventory()
    server = database[0]
    kills: dict[str, Callable[[], object]] = {
        "service-manager web": _kill(system, "service-manager", "web"),
        "service-manager worker": _kill(system, "service-manager", "worker"),
        "cloud-controller web": _kill(system, "cloud-controller", "web"),
        "cloud-controller worker": _kill(system, "cloud-controller", "worker"),
        "PostgreSQL restarted": server.restart,
    }
    rows: list[Row] = []
    with system.manager() as manager:
        for victim, kill in kills.items():
            rows.append(_run_round(system, manager, victim, kill))
            system.settled()
    assert system.left_since(before) == []
    lines = [f"  {'one of two is killed':<26} {'all orders active after':>22}   active   objects"]
    lines += [f"  {row.victim:<26} {row.seconds:>20.1f} s   {row.active:>6}   {row.objects:>7}" for row in rows]
    tables.add("\n".join(lines))


def _run_round(system: Installation, manager: client.Client, victim: str, kill: Callable[[], object]) -> Row:
    """Order half of the instances before the kill and half right after it, then delete them all."""
    texts = [f"{victim}, {each}" for each in range(ORDERS)]
    paths = [_order(manager, each) for each in texts[: ORDERS // 2]]
    kill()
    at = time.monotonic()
    paths += [_order(manager, each) for each in texts[ORDERS // 2 :]]
    until(lambda: all(_is_active(manager, each) for each in paths), f"all active after {victim}", seconds=TIMEOUT)
    seconds = time.monotonic() - at
    # Exactly one object for each order, with its own text.
    notes = [str(each["data"]["text"]) for each in system.tenants.get("configmaps", "-l", "app=note")]
    assert sorted(notes) == texts
    assert len(set(paths)) == ORDERS
    for each in paths:
        _retry(lambda path=each: manager.delete(path))  # type: ignore[misc]
    until(lambda: not any(_exists(manager, each) for each in paths), f"all gone after {victim}", seconds=TIMEOUT)
    return Row(victim, seconds, len(paths), len(notes))


def _kill(system: Installation, service: str, component: str) -> Callable[[], object]:
    selector = f"app.kubernetes.io/name={service},app.kubernetes.io/component={component}"
    return lambda: system.kill(system.services, selector, one=True)


def _note(directory: Path) -> Path:
    """Write a service whose stack is one object, so that Archelon itself is measured."""
    (directory / "templates").mkdir(parents=True)
    (directory / "manifest.yaml").write_text(
        f"service_type: {NOTE}\n"
        "title: Note\n"
        "service_attributes: {note.text: {mutability: required}}\n"
        "templates: {kubernetes: {deployment: templates/note.yaml}}\n"
    )
    (directory / "templates" / "note.yaml").write_text(
        "apiVersion: v1\n"
        "kind: ConfigMap\n"
        'metadata: {name: "note-${org.archelon.instance}", labels: {app: note}}\n'
        'data: {text: "${note.text}"}\n'
    )
    return directory


def _order(manager: client.Client, text: str) -> str:
    """Order a note at a chosen path, so that the request can be repeated if a killed web process interrupts it."""
    path = f"/note/{uuid.uuid4()}"
    _retry(lambda: manager.put(path, NOTE, {"note.text": text}))
    return path


def _retry(request: Callable[[], object]) -> None:
    """Repeat a request while the service or its database is unavailable."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            request()
            return
        except (client.TransportError, client.UnavailableError, client.ServerError):
            if time.monotonic() > end:
                raise


def _is_active(manager: client.Client, path: str) -> bool:
    try:
        return bool(state_of(manager, path)[_STATE] == "active")
    except (client.TransportError, client.UnavailableError, client.ServerError):
        return False


def _exists(manager: client.Client, path: str) -> bool:
    try:
        return bool(manager.exists(path))
    except (client.TransportError, client.UnavailableError, client.ServerError):
        return True


def _await_active(manager: client.Client, path: str) -> Any:
    def active() -> Any:
        shown = state_of(manager, path)
        return shown if shown[_STATE] == "active" else None

    return until(active, f"{path} is active", seconds=TIMEOUT)


def _request(method: str, url: str, body: str | None = None) -> tuple[int, str]:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        answer = urllib3.request(method, url, body=body, headers=headers, timeout=5.0, retries=False, redirect=False)
    except urllib3.exceptions.HTTPError:
        return 0, ""
    return answer.status, answer.data.decode()


def _page_contains(url: str, *wanted: str) -> bool:
    status, text = _request("GET", url)
    return status == 200 and all(each in text for each in wanted)


@contextlib.contextmanager
def _visitors(url: str) -> Iterator[None]:
    """Visitors that send requests repeatedly."""
    leave = threading.Event()

    def visit() -> None:
        while not leave.is_set():
            _request("GET", url)

    threads = [threading.Thread(target=visit, daemon=True) for _ in range(3)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        leave.set()
        for each in threads:
            each.join(timeout=10.0)
